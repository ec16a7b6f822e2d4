"""One value per sample id: scores of every sample under the checkpoints of a run.

`scoring` is the use case, to which a command brings a `measure`: `run` opens checkpoints, network and samples, `seen`
says which of them an epoch knows, `sweep` goes through them, `log` remembers what is finished. `scores` are the tables
of what logits and labels give, at an epoch and over epochs, which `folds` take one after the other; `per_sample` reads
gradients off the graph, `losses` sums over epochs, and `loaders` reads batches of a user's own loader.
"""

from modeconn_cli.engine.samples.log import ScoredEpoch
from modeconn_cli.engine.samples.measure import Measure
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.samples.scoring import score, write_summary

__all__ = ["Measure", "ScoredEpoch", "ScoredRun", "score", "write_summary"]
