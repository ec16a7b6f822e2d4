"""Losses, gradient norms and curvature of every sample of a batch.

`uses` finds where parameters meet the data in a model's graph, `rules` say what the gradient there is per sample,
`backward` runs the graph and hears of them, `fallback` makes the gradients of what the graph cannot take apart, and
`gradients` puts both together: for `norms`, and for the Fisher information in `fisher`. `execution` runs many forward
passes for `curvature`, and `coupling` asks whether samples are independent at all.
"""

from modeconn_cli.engine.samples.per_sample.coupling import TRIED, check_independent
from modeconn_cli.engine.samples.per_sample.norms import Gradient, PerSample, Scores

__all__ = ["TRIED", "Gradient", "PerSample", "Scores", "check_independent"]
