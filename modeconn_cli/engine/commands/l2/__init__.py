"""`mcx l2`: how far apart checkpoints are. One pair goes the way of many, and is shown in its own form."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from modeconn_cli.engine.commands.l2 import finished, functions, network, pair, summary, trajectory
from modeconn_cli.engine.commands.l2.chosen import Chosen, Pair, choose
from modeconn_cli.engine.commands.l2.measure import measure
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.commands.l2.pair import L2Result
from modeconn_cli.engine.commands.l2.summary import L2ManyResult
from modeconn_cli.engine.commands.l2.weight_space import Networks
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject, weights
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.shared import FIGURES

__all__ = ["L2ManyResult", "L2Result", "run"]


def run(settings: L2Settings, runtime: Runtime) -> L2Result | L2ManyResult | None:
    """Measure one pair of checkpoints or several, and write the files that are asked for.

    Each checkpoint is read once. Raises InputError where a pair could not be measured, of several when all others
    are written.
    """
    chosen = choose(settings, runtime)
    if chosen.alone or (settings.pairs != "all" and chosen.epochs is None):
        settings.refuse("without --pairs all or the folder of a run", *FIGURES)
    if len(chosen.pairs) < len(chosen.paths) * (len(chosen.paths) - 1) // 2 and chosen.epochs is None:
        runtime.note("each checkpoint beside the first; --pairs all measures every pair")
    if runtime.dry_run:
        runtime.plan([_plan(chosen, settings)])
        return None
    outputs = _outputs(chosen, settings)
    if (made := finished.found(chosen, settings, runtime)) is not None:
        summary.say_same(made.pairs, runtime)
        runtime.note(f"already complete: {settings.output_dir}")
        return made
    networks = _read(chosen, settings, runtime)
    completed = functions.completed(networks, settings, runtime)
    due = _due(outputs, chosen, completed, runtime)  # before anything is measured
    beside = [] if chosen.epochs is None else trajectory.pairs(list(chosen.paths))
    found = measure(networks, chosen.pairs, beside, settings, completed, runtime)
    results = {
        each: result
        for each, result in found.pairs.items()
        if isinstance(result, L2Result) and result.problem is None
    }
    shown: L2Result | L2ManyResult
    if chosen.alone:
        shown = pair.check_alone(found.pairs[chosen.pairs[0]], runtime)
    else:
        shown = summary.several(chosen, networks, found, settings, runtime)
    if outputs:
        due |= {
            each: outputs[each] for each in set(results) - set(due) if _is_due(results[each], outputs[each])
        }
        _write(due, networks, results, shown, settings)
        if settings.output_dir is not None and isinstance(shown, L2ManyResult):
            written = [*outputs.values(), *summary.made(settings.output_dir)]
            finished.keep(settings.output_dir, shown, written, chosen, settings, runtime)
        if results and not due:
            runtime.note(f"already complete: {settings.output or settings.output_dir}")
    if isinstance(shown, L2ManyResult):
        summary.check_measured(shown, networks, settings)
    elif "l2" in settings.metric:
        runtime.note(pair.size_note(shown.distance))
    return shown


def _plan(chosen: Chosen, settings: L2Settings) -> str:
    if chosen.alone:
        first, second = chosen.paths.values()
        return f"measure the distance from {first} to {second} ({', '.join(settings.metric)})"
    return f"measure {len(chosen.pairs)} distances between {len(chosen.paths)} checkpoints"


def _outputs(chosen: Chosen, settings: L2Settings) -> dict[Pair, Path]:
    """The file of each pair, where any are asked for.

    Raises SettingsError where two pairs have one name, OutputError for places that cannot be written.
    """
    if chosen.alone and settings.output is not None:
        files.refuse_inputs([settings.output], chosen.paths.values())
        files.check_writable(settings.output.parent)
        return {chosen.pairs[0]: settings.output}
    names = ["-".join(each) for each in chosen.pairs]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise SettingsError(f"two pairs are called '{twice}'", "label the checkpoints otherwise: label=path")
    if settings.output_dir is None:
        return {}
    summary.check_folder(settings.output_dir, settings.overwrite)
    return {
        each: settings.output_dir / f"{name}.json" for each, name in zip(chosen.pairs, names, strict=True)
    }


def _read(chosen: Chosen, settings: L2Settings, runtime: Runtime) -> Networks:
    """The networks by label, under the names of the first, or of one whose names are all there below a prefix; of
    several those that cannot be read are the reason why.
    """
    networks: dict[str, Network | InputError] = {}
    model = _model(next(iter(chosen.paths.values())), settings, runtime)
    for done, (label, path) in enumerate(chosen.paths.items(), start=1):
        try:
            networks[label] = network.opened(path, settings, runtime)
        except InputError as error:
            if chosen.alone:
                raise
            networks[label] = error
        if not chosen.alone:
            runtime.progress(done, len(chosen.paths), "checkpoint", checkpoint=label)
    names: dict[str, Any] = {}
    for each in networks.values():
        if isinstance(each, Network) and (
            not names or weights.prefixes(names, each.checkpoint.whole, some=settings.common)
        ):
            names = each.checkpoint.whole
    for label, each in networks.items():
        try:
            if isinstance(each, Network):
                networks[label] = network.compared(each, settings, runtime, model, names)
        except InputError as error:
            if chosen.alone:
                raise
            networks[label] = error
    return networks


def _model(path: Path, settings: L2Settings, runtime: Runtime) -> nn.Module | None:
    """The network that the settings name, which says what its parameters are."""
    if settings.model is None:
        return None
    first = recognised(network.mapped(path, settings.state_key), settings, runtime)
    return subject.open_described(first.about, path, settings, runtime, "the data's shape", first.state).model


def _due(
    outputs: Mapping[Pair, Path], chosen: Chosen, completed: Mapping[str, L2Settings], runtime: Runtime
) -> dict[Pair, Path]:
    """The files that are still to be written, of networks that could be read.

    Raises OutputError for one of another origin.
    """
    out = {}
    for each, path in outputs.items():
        if not set(each) <= set(completed):
            continue
        settings = completed[each[0]]
        if not files.occupied(path):
            out[each] = path
            continue
        with contextlib.suppress(InputError):  # of its swaps, which measuring will say
            first, second = (chosen.paths[label] for label in each)
            made = pair.provenance(settings, first, second, runtime.opened)
            if jobs.is_due(path, made, settings, unread=settings.unflipped):
                out[each] = path
    return out


def _is_due(result: L2Result, path: Path) -> bool:
    """Raises OutputError for a file of the same pair on other data, which are known once it is measured."""
    settings = result.settings
    return settings.needs_data and jobs.is_due(path, result.provenance, settings, unread=settings.unflipped)


def _write(
    due: Mapping[Pair, Path],
    networks: Networks,
    results: Mapping[Pair, L2Result],
    shown: L2Result | L2ManyResult,
    settings: L2Settings,
) -> None:
    """A JSON file per pair, and of several the summary last. Pairs that the same command made stay as they are."""
    for each in networks.values():
        if isinstance(each, Network):
            each.check_unchanged()
    files.write_jsons((path, results[one].document()) for one, path in due.items() if one in results)
    if settings.output_dir is not None and isinstance(shown, L2ManyResult):
        summary.write(settings.output_dir, shown, networks, settings)
