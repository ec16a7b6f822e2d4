"""The groups of exchangeable units of a checkpoint's network, as `mcx info --symmetries` lists them."""

from __future__ import annotations

from collections.abc import Mapping

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.commands.info.groups import AxisMoved, GroupOfUnits, Symmetries
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import graph, subject
from modeconn_cli.engine.settings.info import InfoSettings
from modeconn_cli.engine.symmetry import Group


def symmetries(settings: InfoSettings, runtime: Runtime) -> Symmetries:
    """Build the network of the checkpoint and read its groups off the graph.

    Raises SettingsError where nobody says which network it is, InputError where the weights are another network's, and
    where no unit can be exchanged because of operations that nothing can be proven about.
    """
    read = subject.read(settings.checkpoint, settings, runtime, allow_nonfinite=True)
    opened = subject.open_networks([read], settings, runtime, "no data")
    found = symmetry.find(graph.trace(opened.model.cpu(), opened.arch.inputs(opened.model)))
    return Symmetries(
        model=opened.arch.model,
        input_shape=list(opened.arch.input_shape) if opened.arch.takes_images else None,
        input_tokens=opened.arch.input_tokens,
        units=sum(group.size for group in found.groups),
        groups=tuple(_described(name, group, found.ids) for name, group in found.ids.items()),
        fixed=dict(found.fixed),
    )


def _described(name: str, group: Group, ids: Mapping[str, Group]) -> GroupOfUnits:
    rows = {layer: places.shape[1] for layer, places in group.rows_in.items()}
    moves = (AxisMoved(move.tensor, move.axis, move.length, move.places.shape[1]) for move in group.moves)
    around = group.within
    names = (other for other, each in ids.items() if each is around)
    within = None if around is None else next(names, around.layer)
    return GroupOfUnits(name, group.size, rows[group.layer], rows, tuple(moves), within)
