"""The figures of the commands, each into matplotlib axes of your own.

Their data are tables and columns of `read`, arrays, or a part of an answer's result; a docstring says which. `looks()`
is the style that the commands draw in, for `with draw.looks(): …`. Importing this module imports torch and matplotlib.
"""

from __future__ import annotations

from modeconn_cli.engine.commands.animate.heatmap import draw_layers as layers_along_curve
from modeconn_cli.engine.commands.correlate.figures import draw_evolution as dormant_by_group
from modeconn_cli.engine.commands.correlate.figures import draw_group as group
from modeconn_cli.engine.commands.csl.figures import draw_curves as losses
from modeconn_cli.engine.commands.csl.figures import draw_histogram as histogram
from modeconn_cli.engine.commands.curve.plane_figure import draw_plane as plane
from modeconn_cli.engine.commands.dormant.figures import draw_by_layer as dormant_ranks
from modeconn_cli.engine.commands.dormant.figures import draw_layers as dormant_layers
from modeconn_cli.engine.commands.dormant.figures import draw_shares as dormant_shares
from modeconn_cli.engine.commands.l2.figures import draw_distances as distances
from modeconn_cli.engine.commands.l2.figures import draw_steps as trajectory_steps
from modeconn_cli.engine.commands.l2.figures import draw_turns as trajectory_turns
from modeconn_cli.engine.commands.l2.figures import draw_way as trajectory
from modeconn_cli.engine.commands.lmc.figures import draw_against_distance as barriers_by_distance
from modeconn_cli.engine.commands.lmc.figures import draw_against_k1 as barriers_by_k1
from modeconn_cli.engine.commands.lmc.figures import draw_lines as branch_lines
from modeconn_cli.engine.commands.lmc.figures import draw_map as barrier_map
from modeconn_cli.engine.commands.lmc.layer_figures import draw_layer_map as layers_on_line
from modeconn_cli.engine.paths.figures import draw_path as path
from modeconn_cli.engine.results.figures import plain_matplotlib as looks
from modeconn_cli.engine.training.task_results import draw_seen as accuracy_of_seen_classes
from modeconn_cli.engine.training.task_results import draw_tasks as accuracy_by_task

__all__ = [
    "accuracy_by_task",
    "accuracy_of_seen_classes",
    "barrier_map",
    "barriers_by_distance",
    "barriers_by_k1",
    "branch_lines",
    "distances",
    "dormant_by_group",
    "dormant_layers",
    "dormant_ranks",
    "dormant_shares",
    "group",
    "histogram",
    "layers_along_curve",
    "layers_on_line",
    "looks",
    "losses",
    "path",
    "plane",
    "trajectory",
    "trajectory_steps",
    "trajectory_turns",
]
