"""Settings as a command will use them: completed by what its checkpoint says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from modeconn_cli.engine import datasets
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.settings.base import Settings, specs
from modeconn_cli.engine.settings.shared import DataSettings, ModelSettings

# The settings that name the checkpoint a command takes network and data from, in order.
SOURCES = ("checkpoint", "curve_checkpoint", "endpoint0")


def complete(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with the checkpoint's own word where they have none, and the origin of each such value."""
    path = next(
        (p for name in SOURCES if isinstance(p := getattr(settings, name, None), Path) and p.is_file()), None
    )
    if path is None or not isinstance(settings, ModelSettings):
        return settings, {}
    about = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=True).about
    done: Any = datasets.merge_settings(settings, about) if isinstance(settings, DataSettings) else settings
    words = tuple(f"{key}={value}" for key, value in about.get("model_args", {}).items())
    own = {"model": about.get("model"), "num_classes": about.get("num_classes"), "model_arg": words}
    missing = {name: value for name, value in own.items() if getattr(done, name) in (None, ()) and value}
    if settings.model is not None and settings.model != about.get("model"):
        missing = {}
    done = replace(done, **missing)
    changed = [s.name for s in specs(type(settings)) if getattr(settings, s.name) != getattr(done, s.name)]
    return done, dict.fromkeys(changed, f"checkpoint {path}")
