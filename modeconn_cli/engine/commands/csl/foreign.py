"""`mcx csl aggregate --from`: the table of scores of what other tools have recorded of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine.commands.csl import export, table
from modeconn_cli.engine.commands.csl.naming import RunName
from modeconn_cli.engine.datasets import name_of
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.names import MANIFEST_FILE
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import foreign
from modeconn_cli.engine.samples.folds import Fold, Last, Total
from modeconn_cli.engine.samples.foreign import LOSS, Source, Told
from modeconn_cli.engine.samples.scores import Score, scores
from modeconn_cli.engine.settings.csl import CslAggregateSettings

COMMAND = "csl aggregate"
OF_LOSSES: dict[str, Callable[[int], Fold]] = {
    "csl": Total,
    "final_loss": Last,
}  # which other runs have from arrays of losses
CHANGES = ("variability", "forgetting", "first_learnt")  # that one epoch says nothing of


@dataclass(frozen=True, kw_only=True)
class CslForeignResult(Record):
    """`scores` are the columns of the table, `absent` says of each other one why it is not there."""

    schema: ClassVar[str] = "mcx.csl_from/1"

    dataset: str
    run_idx: int | None
    noise_level: float | None
    kind: str
    files: list[str]
    samples: int
    named_ids: bool
    kept_epochs: list[int]
    missing_epochs: list[int]
    scores: list[str]
    absent: dict[str, str]
    scores_path: str


def run(settings: CslAggregateSettings, runtime: Runtime) -> CslForeignResult | None:
    """Read the files, fold their columns, and write the table and what it says."""
    paths = foreign.files_of(settings.from_files)
    kind, looks = foreign.recognised(paths)
    named = _named(settings, kind.name)
    folder = settings.output_dir
    if runtime.plan([f"read {kind.name} of {len(paths)} files", f"results in {folder}"]):
        return None
    metrics = folder / named.aggregated("metrics", ".json")
    certain = [metrics.name, *(named.aggregated(table.STEM, ending) for ending in table.ENDINGS)]
    certain += export.certain(settings.export, named)
    possible = (named.aggregated(table.STEM, table.PARQUET), *export.names(export.STEMS, named))
    owned = list(dict.fromkeys((*certain, *possible)))
    how: dict[str, Any] = {
        "owned": owned,
        "mends": True,
        "key": f"{named.key} from",
        "further": [path for path in paths if path not in settings.from_files],
    }

    def read() -> tuple[Source, table.Scored]:
        names = None if settings.id_map is None else foreign.id_map(settings.id_map)
        source = kind.read(looks, Told(settings, runtime, folder, names))
        export.check(settings.export, source, source.known, source.labels)
        scored = table.measured(source, _rows(source, settings), source.known)
        export.check_scores(settings.export, scored.absent)
        return source, scored

    # A job remembers what it was begun with: what cannot be used is refused before there is one.
    done = (jobs.private_folder(folder, COMMAND, how["key"]) / MANIFEST_FILE).exists()
    found = None if done else read()
    with jobs.opened(settings, folder, COMMAND, runtime, **how) as job:
        if job.complete and not all((folder / each).exists() for each in certain):
            job.reopen()
        kept = job.found(CslForeignResult, metrics, settings)
        if kept is not None:
            return replace(kept, scores_path=str(folder / named.aggregated(table.STEM, table.ENDINGS[0])))
        source, scored = found or read()
        result = _result(folder, named, kind.name, paths, source, scored)
        if not job.complete:
            facts = {"split": None, "losses": f"recorded by another tool ({kind.name})"}
            table.write(folder, named, source, scored, {}, **facts)
            epochs = np.full(source.count, len(source.epochs))
            exported = export.Exported(source, source.labels, scored.values, epochs, source.probs)
            export.write(settings.export, folder, named, exported, runtime.note)
            files.write_json(metrics, result.document())
            job.finish(path for path in (folder / each for each in owned) if path.exists())
    return result


def _named(settings: CslAggregateSettings, kind: str) -> RunName:
    """What the results are called after: the data set that is said, else the tool."""
    name = kind.partition(" ")[0] if settings.dataset is None else name_of(settings.dataset)
    run_idx = 1 if settings.run_idx is None else settings.run_idx
    return RunName(name, run_idx, settings.noise_level or 0.0)


def _rows(source: Source, settings: CslAggregateSettings) -> list[Score]:
    """The table: sums of losses are folded like other columns, and changes take two epochs."""
    rows: list[Score] = []
    for score in (*scores(settings.el2n_epoch), *source.further):
        fold = OF_LOSSES.get(score.name, score.fold)
        needs = (LOSS,) if score.name in OF_LOSSES else score.needs
        least = max(score.least, 2) if score.name in CHANGES else score.least
        rows.append(replace(score, fold=fold, needs=needs, least=least))
    return rows


def _result(
    folder: Path, named: RunName, kind: str, paths: list[Path], source: Source, scored: table.Scored
) -> CslForeignResult:
    return CslForeignResult(
        dataset=named.dataset,
        run_idx=named.run_idx,
        noise_level=named.noise,
        kind=kind,
        files=[str(path) for path in paths],
        samples=source.count,
        named_ids=source.named_ids,
        kept_epochs=source.epochs,
        missing_epochs=source.missing,
        scores=list(scored.values),
        absent=scored.absent,
        scores_path=str(folder / named.aggregated(table.STEM, table.ENDINGS[0])),
    )
