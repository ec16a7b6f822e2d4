"""Which checkpoints are compared, what they are called, and in which pairs.

A word is a checkpoint, `label=path`, the folder of a run or a pattern. Without a label a checkpoint is called by its
file's stem (and entry), by its folder where stems collide, and by both where folders do too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError, must_exist
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import epochs
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.scoring import EPOCHS

Pair = tuple[str, str]  # labels


@dataclass(frozen=True)
class Chosen:
    """label -> checkpoint in the order given, and the pairs to measure; `alone` where the command is about one pair.

    `epochs` are those of the checkpoints, ascending, where they are of one run.
    """

    paths: Mapping[str, Path]
    pairs: Sequence[Pair]
    alone: bool = False
    epochs: tuple[int, ...] | None = None


def choose(settings: L2Settings, runtime: Runtime) -> Chosen:
    """The checkpoints given by position, by flag, of folders or of patterns.

    Raises SettingsError where they are given in two ways or are fewer than two, and for labels that cannot be used.
    """
    if settings.checkpoints and (settings.checkpoint1 or settings.checkpoint2):
        raise SettingsError(
            "checkpoints are given by position and by --checkpoint1/--checkpoint2", "use one of them"
        )
    words = list(settings.words)
    several = [word for word in words if epochs.names_several(word)]
    alone = settings.output_dir is None and len(words) == 2 and not several
    if settings.output is not None and not alone:
        raise SettingsError("--output is for one pair", "use --output-dir for several")
    if len(words) == 1 and not several:  # the flags of folders are not to blame
        must_exist(names.file_of(names.label_and_path(words[0])[1]))
    folders = [os.path.isdir(names.file_of(word)) for word in words]
    if not any(folders):
        settings.refuse("without a folder", "pattern")
    if not several and any(map(settings.was_given, EPOCHS)):
        raise SettingsError(
            "--start-epoch, --end-epoch and --step choose from a folder or a pattern", "mcx l2 FOLDER"
        )
    meant = [found for word in words for found in epochs.meant(word, settings, runtime).items()]
    paths = [path for path, _ in meant]
    if len(paths) < 2:
        raise SettingsError(
            f"two checkpoints are needed, got {len(paths)}",
            "mcx l2 FIRST.pt SECOND.pt; a folder takes no label, a pattern has * or ?",
        )
    if alone:
        settings.refuse("on two checkpoints", "pairs")
        first, second = (path for _, path in map(names.label_and_path, words))
        return Chosen({"first": first, "second": second}, [("first", "second")], alone=True)
    if settings.output_dir is None:
        settings.refuse("on several checkpoints without --output-dir", "show_top_k", "sort_by")
    named = names.labelled(paths)
    settled = len(words) == 1
    together = len({path.absolute().parent for path in paths}) == 1 or (settled and folders[0])
    known = tuple(epoch for _, epoch in meant if epoch is not None)
    rising = len(known) == len(meant) and list(known) == sorted(set(known))
    # The checkpoints of one folder, each later than the one before.
    trajectory = known if rising and together and (settled or len(paths) > 2) else None
    if trajectory is None and any(names.file_of(word).is_dir() for word in settings.checkpoints):
        runtime.note("a trajectory is of one run: name its folder alone")
    pairs = list(itertools.combinations(named, 2))
    return Chosen(named, pairs if settings.pairs == "all" else pairs[: len(named) - 1], epochs=trajectory)
