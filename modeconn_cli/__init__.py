"""mcx: mode connectivity and per-sample training dynamics of neural networks.

`modeconn_cli.Recorder` records training dynamics from any training loop, `RecorderCallback` from Lightning's; both are
imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeconn_cli.engine.training.recorder import Recorder as Recorder

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What needs torch is there as soon as it is asked for."""
    if name == "Recorder":
        return importlib.import_module("modeconn_cli.engine.training.recorder").Recorder
    if name == "RecorderCallback":
        return importlib.import_module("modeconn_cli.engine.training.lightning_recorder").callback()
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
