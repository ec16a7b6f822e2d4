"""A score of every sample at every checkpoint of a run: plan, job, pass over the samples, log, result.

This is the whole of `csl score`, `curvature` and `dormant` but for the measure that each of them brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import InputError, OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import completing
from modeconn_cli.engine.results import arrays, files, jobs, listing
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples.log import Row
from modeconn_cli.engine.samples.measure import Measure, Result, Settings
from modeconn_cli.engine.samples.scored_run import ScoredRun, open_run
from modeconn_cli.engine.samples.sweep import Sweep
from modeconn_cli.engine.settings.scoring import ScoringSettings
from modeconn_cli.engine.settings.shared import SplitName

# What a result says of the run that made it; a summary says the same whoever made it, in one go or in several.
OF_THE_RUN = ("scored", "samples_per_second", "output_dir", "figure")


def score(
    settings: Settings,
    runtime: Runtime,
    command: str,
    measured: Callable[[Settings, ScoredRun, Path, Runtime], Measure[Settings, Row, Result]],
) -> Result | None:
    """Take the measure at the epochs that have not been scored yet; None where only the plan was asked for."""
    folder = settings.output_dir
    run = open_run(settings, runtime)
    settings = completing.completed(settings, run.about, run.first)
    measure = measured(settings, run, folder, runtime)
    if runtime.plan([measure.plan(), f"results in {folder}"]):
        return None
    runtime.group.agree(
        lambda: {f"checkpoint of epoch {epoch}": path.name for epoch, path in run.checkpoints.items()}
    )
    # The range that was found belongs to the record: checkpoints that come later are more work, not other work.
    settings = replace(settings, start_epoch=min(run.checkpoints), end_epoch=max(run.checkpoints))
    how: dict[str, Any] = {"owned": measure.owned, "mends": True, "key": measure.key}
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, command, runtime, **how, unread=settings.unflipped) as job,
    ):
        if measure.ids is not None and not job.complete:
            _write_ids(folder / measure.ids, run.samples, anew=job.anew(settings), ours=job.resumed)
        listed = [] if measure.listed is None else [folder / measure.listed]
        for path in listed if runtime.group.leader and not job.complete else ():
            _write_listing(path, _listing(run, settings, runtime), anew=job.anew(settings))
        sweep = Sweep(measure, job, runtime, settings.batch_size)
        # Scoring one checkpoint after the other into one folder adds up: earlier ones are listed too.
        rows = sweep.rows(every=settings.checkpoint is not None)
        result = _result(measure, rows, sweep)
        if runtime.group.leader and (sweep.scored or not job.complete):
            job.finish([*measure.finish(result), *listed])
    return result


def _result(measure: Measure[Settings, Row, Result], rows: list[Row], sweep: Sweep[Row]) -> Result:
    """The measure's record: settings are repeated under their own names."""
    settings, run, wanted = measure.settings, measure.run, [field.name for field in fields(measure.record)]
    known = {name: getattr(settings, name) for name in wanted if hasattr(settings, name)}
    known |= {
        "dataset": run.data.name,
        "samples": len(run.samples),
        "epochs": tuple(rows),
        "scored": sweep.scored,
        "samples_per_second": sweep.rate,
        "output_dir": str(measure.folder),
        **measure.facts(rows),
    }
    return measure.record(**{name: known[name] for name in wanted})


def _listing(run: ScoredRun, settings: ScoringSettings, runtime: Runtime) -> str:
    """The table of the samples; a note where some of them were not trained on."""
    data, split = run.data, settings.split
    known = run.about.data is not None or settings.val_size is not None or settings.val_per_class is not None
    held = len(data.val) if split == "all-train" and known else 0
    if held:
        runtime.note(
            f"{held:,} of the {len(run.samples):,} samples were held out of training: `val` in the table of samples "
            "(--split fit: without them)"
        )
    return _table(data, run.samples, split, split_known=known)


def _table(data: Data, samples: Samples, split: SplitName, *, split_known: bool) -> str:
    """CSV, a line per sample in the order of the ids; what is not known is an empty cell.

    The label is the one that was scored, the file its place below the data set's folder, the split `fit`, `val` or
    `test`; `split_known`: whether a run says which of the training file's samples it was trained on.
    """
    of_files, names = data.files_of(samples), data.class_names
    held = set(data.val.ids.tolist())

    def part(sample: int) -> str:
        if split == "test":
            return "test"
        return ("val" if sample in held else "fit") if split_known else ""

    def rows() -> Iterator[tuple[int, int, str, str, str]]:
        for k, (sample, label) in enumerate(zip(samples.ids.tolist(), samples.labels.tolist(), strict=True)):
            yield (
                sample,
                label,
                names[label] if names else "",
                of_files[k] if of_files else "",
                part(sample),
            )

    return files.csv_text(listing.COLUMNS, rows())


def _write_ids(path: Path, samples: Samples, *, anew: bool, ours: bool) -> None:
    """The samples' ids. Raises OutputError where the file names other samples and is not to be made `anew`; InputError
    where it cannot be read and is `ours`.
    """
    ids = samples.ids.cpu().numpy()
    if anew or not path.exists():
        files.write_array(path, ids)
        return
    try:
        known = arrays.read_ids(path)
    except InputError:
        if ours:
            raise
        known = ids[:0]
    if not np.array_equal(known, ids):
        raise OutputError(f"'{path}' names other samples than these", "use another --output-dir")


def _write_listing(path: Path, table: str, *, anew: bool) -> None:
    """The table of the samples. Raises OutputError where the file is another one and is not to be made `anew`."""
    if anew or not path.exists():
        files.write_text(path, table)
    elif path.read_bytes() != table.encode("utf-8", "backslashreplace"):
        raise OutputError(f"'{path}' is no table of these samples", "use another --output-dir")


def write_summary(path: Path, result: Record, *, by_epoch: bool = True) -> None:
    """A result as JSON; `by_epoch`: with the epochs' numbers as keys."""
    document = {name: value for name, value in result.document().items() if name not in OF_THE_RUN}
    if by_epoch:
        document["epochs"] = {str(each["epoch"]): each for each in document["epochs"]}
    files.write_json(path, document)
