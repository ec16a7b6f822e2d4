"""Losses and gradient norms of every sample of a batch, from one forward and one backward pass.

`layout` finds the samples in a tensor, `rules` say what an operation's gradient by its parameters is per sample,
`uses` finds where parameters meet the data, `program` runs the graph, `gradients` puts them together; `fallback`
does the same with torch.func for what the graph cannot, and `coupling` asks whether samples are independent at all.
"""

from modeconn_cli.engine.samples.per_sample.coupling import check_independent
from modeconn_cli.engine.samples.per_sample.gradients import Gradient, PerSample, Scores

__all__ = ["Gradient", "PerSample", "Scores", "check_independent"]
