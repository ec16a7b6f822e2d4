"""Training and evaluation: one loop each."""

from modeconn_cli.engine.training.evaluation import batch_norms, evaluate, predict, recompute_statistics
from modeconn_cli.engine.training.loop import Recipe, fit, make_optimizer, recipe_of
from modeconn_cli.engine.training.network import NetworkProblem

__all__ = [
    "NetworkProblem", "Recipe", "batch_norms", "evaluate", "fit", "make_optimizer", "predict", "recipe_of",
    "recompute_statistics",
]  # fmt: skip
