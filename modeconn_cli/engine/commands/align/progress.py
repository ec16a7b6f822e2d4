"""How far the matching of a network is: a small file, from which the same command goes on after a kill."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.results import files, records
from modeconn_cli.engine.results.records import Provenance
from modeconn_cli.engine.results.sameness import difference
from modeconn_cli.engine.settings.align import AlignSettings
from modeconn_cli.engine.symmetry.groups import Symmetry
from modeconn_cli.engine.symmetry.match import Progress

SCHEMA = "mcx.align_progress/1"


@dataclass(frozen=True)
class Kept:
    """The file of one network's matching, which is there until its alignment is written."""

    path: Path
    made: Provenance
    settings: AlignSettings

    def check(self) -> None:
        """Raises OutputError for a file of any other origin."""
        if files.occupied(self.path) and records.peek_object(self.path).get("schema") != SCHEMA:
            raise OutputError(f"'{self.path}' exists", "move it away: how far the matching is goes there")

    def read(self, groups: Symmetry) -> Progress | None:
        """How far the same command has come with the same networks, which have these groups; else None."""
        said = records.peek_object(self.path)
        try:
            if difference(said["provenance"], self.made, self.settings):
                return None
            found = Progress(**said["progress"])
            found.check(groups)
        except (LookupError, TypeError, ValueError, AttributeError):  # it is not what was written
            return None
        return found

    def write(self, progress: Progress) -> None:
        document = {"schema": SCHEMA, "provenance": vars(self.made), "progress": asdict(progress)}
        files.write_json(self.path, records.strict(document))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
