"""The teacher of instance-dependent label noise: a small network that says which labels look most like other ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets import noise
from modeconn_cli.engine.datasets.noise import Flips
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.networks.subject import open_untrained, read_own
from modeconn_cli.engine.settings.base import specs
from modeconn_cli.engine.settings.train import OptimizerSettings, TaskSettings, TrainSettings, WatchSettings

FOLDER = "teacher"
EPOCHS = 5
_USUAL = {
    spec.name: spec.default
    for owner in (OptimizerSettings, TaskSettings, WatchSettings)
    for spec in specs(owner)
}


def settings_of(pupil: TrainSettings, runtime: Runtime) -> TrainSettings:
    """The settings of a teacher: the registered `cnn`, or `mlp` for what is no image, after five epochs on the clean
    labels by SGD at 0.05 falling linearly, momentum 0.9, decay 5e-4, batches of 128, whatever the network itself is
    trained with. Its seed is that of the labels.
    """
    seed = pupil.seed if pupil.label_seed is None else pupil.label_seed
    clean = replace(
        pupil, **_USUAL | {"epochs": EPOCHS, "schedule": "linear", "save_freq": 0}, batch_size=128, preset=None,
        label_noise=None, label_seed=None, noise_kind=None, noise_map=None, seed=seed, seeds=(), patience=None,
        min_delta=0.0, explicit=frozenset(), output_dir=pupil.output_dir / FOLDER, num_classes=None, model_arg=(),
    )  # fmt: skip
    shape = datasets.load(clean, runtime.device, held_out=False, seen=False).input_shape
    image = len(shape) == 3 and min(shape[1:]) >= 4
    return replace(clean, model="cnn" if image else "mlp")


@torch.no_grad()
def flips(teacher: TrainSettings, checkpoint: Path, share: float, runtime: Runtime) -> Flips:
    """The flips that a trained teacher makes of the samples that are used, `fit` and `val`; of their labels `share`."""
    found = open_untrained(teacher, runtime, watched=False, measured=False)
    weights.load_into(found.model, read_own(checkpoint).whole, str(checkpoint))
    samples, model = found.data.split("all-train"), found.model.eval()
    outputs = [forward(model, batch.images).float().cpu() for batch in samples.batches(teacher.batch_size)]
    ids, labels = samples.ids.cpu(), samples.labels.cpu()
    trained = noise.by_teacher(torch.cat(outputs).double().softmax(1), labels, ids, share)
    return Flips(share, teacher.seed, ids, labels, trained, "instance")
