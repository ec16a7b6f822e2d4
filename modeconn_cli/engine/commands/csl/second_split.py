"""Second-split forgetting of both runs of `mcx train --two-phase`: each of the half of the samples it began with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from modeconn_cli.engine.commands.csl import inputs, table
from modeconn_cli.engine.commands.csl.inputs import RunArrays
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.samples.scores import SECOND_SPLIT, scores
from modeconn_cli.engine.settings.csl import CslAggregateSettings


def of_both(found: RunArrays, settings: CslAggregateSettings, runtime: Runtime) -> dict[str, np.ndarray]:
    """When samples are forgotten in the second phase, of both runs of two phases: each of the half that it began with.

    Raises InputError where the other run is not the same with its halves swapped.
    """
    assert settings.swapped_dir is not None, "there is another run"
    other = inputs.find(replace(settings, input_dir=settings.swapped_dir, class_order=None), runtime)
    mine, theirs = found.halves, other.halves
    if mine is None or theirs is None or theirs != replace(mine, swapped=not mine.swapped):
        raise InputError(
            f"'{settings.swapped_dir}' is not of the run with the halves of '{settings.input_dir}' swapped",
            "score both folders of train --two-phase, seed<k> and seed<k>_swapped",
        )
    if not np.array_equal(found.ids, other.ids):
        raise InputError(f"'{settings.swapped_dir}' holds other samples than '{settings.input_dir}'")
    wanted = [row for row in scores(settings.el2n_epoch, found.half) if row.name == SECOND_SPLIT]
    scored = [table.measured(each, wanted, {}) for each in (found, other)]
    for each in scored:
        if each.absent:
            raise InputError(f"no {SECOND_SPLIT}: {each.absent[SECOND_SPLIT]}")
    first, second = (each.values[SECOND_SPLIT].astype(np.float64) for each in scored)
    return {SECOND_SPLIT: np.where(np.isnan(first), second, first)}
