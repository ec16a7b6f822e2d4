"""How far apart networks are in what they compute: logits on the same samples, and the Fisher information."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import datasets, keyed
from modeconn_cli.engine.commands.l2.inputs import Network
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject, weights
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.samples.per_sample.fisher import DiagonalFisher
from modeconn_cli.engine.settings.base import plain
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.shared import DataSettings, SplitName


@dataclass(frozen=True)
class FunctionalDistance:
    """Over the samples: share of different arg-max, mean KL(p_a‖p_b) in nats, mean ‖logits_a − logits_b‖."""

    disagreement: float
    kl: float
    logit_distance: float
    samples: int


class Functions:
    """Networks of one architecture on the data that the settings name, or the first checkpoint that says any."""

    def __init__(self, settings: L2Settings, networks: Sequence[Network], runtime: Runtime) -> None:
        first = next((n for n in networks if n.checkpoint.about.data is not None), networks[0])
        checkpoint = recognised(first.checkpoint, settings, runtime)
        self._settings, self._runtime = settings, runtime
        for network in networks:
            self._compare(network, first, datasets.completed(settings, checkpoint.about.data))
        found = subject.open_described(checkpoint.about, checkpoint.path, settings, runtime)
        self.data, self.arch, self._model = found.data, found.arch, found.model.eval()
        self._fisher: DiagonalFisher | None = None

    def _compare(self, network: Network, first: Network, chosen: DataSettings) -> None:
        """Warn where a network was trained on other data than all are measured on."""
        said = network.checkpoint.about.data
        for name, there in {} if said is None else said.entries().items():
            here = plain(getattr(chosen, name))
            if (here or None) != (there or None):
                self._runtime.warn(
                    f"'{network.path}' was trained with {name} {there}, all are measured with {here}, as "
                    f"'{first.path}' or the flags say"
                )
                return

    def samples(self, otherwise: SplitName) -> Samples:
        """The split that is asked for. Raises SettingsError where it is empty."""
        name = self._settings.split or otherwise
        found = self.data.split(name)
        if len(found) == 0:
            raise SettingsError(
                f"data set '{self.data.name}' has no samples in split '{name}'", "choose --split"
            )
        return found

    def fisher_samples(self) -> Samples:
        """A seeded random subset of the training samples, in id order."""
        found, seed = self.samples("all-train"), self._settings.seed
        if self._settings.fisher_samples >= len(found):
            return found
        chosen = keyed.permutation(seed, "fisher subset", len(found))[: self._settings.fisher_samples]
        return found.take(torch.sort(chosen.to(found.device)).values)

    def describe(self, samples: Samples, otherwise: SplitName) -> dict[str, Any]:
        """What a record says of the samples."""
        split = self._settings.split or otherwise
        noise = self.data.flips
        return {
            "dataset": self.data.name,
            "split": split,
            "samples": len(samples),
            "transform": samples.transform.describe(),
            "label_noise": 0.0 if noise is None or self._settings.labels == "clean" else noise.share,
        }

    def logits(self, network: Network, samples: Samples, folder: Path) -> np.ndarray:
        """float32 [N, classes] over all samples in id order, in a file of `folder`. Raises InputError for a network
        that does not fit.
        """
        self._take(network)
        out: np.ndarray | None = None
        begin = 0
        for batch in samples.batches(self._settings.batch_size):
            with torch.no_grad():
                found = self._model(batch.images).float().cpu().numpy()
            if out is None:
                # Logits of all networks may be more than memory holds.
                with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                    out = np.memmap(file.name, np.float32, "w+", shape=(len(samples), found.shape[1]))
            out[begin : begin + len(found)] = found
            begin += len(found)
        assert out is not None
        return out

    def fisher(self, network: Network, samples: Samples) -> dict[str, Tensor]:
        """The diagonal Fisher information by parameter, float64 on the CPU."""
        self._take(network)
        if self._fisher is None:
            settings = self._settings
            self._fisher = DiagonalFisher(
                self._model, self.arch.input_shape, settings.fisher, settings.seed, self._runtime.note
            )
        self._fisher.begin()
        for batch in samples.batches(self._settings.batch_size):
            self._fisher.add(batch.images, batch.labels, batch.ids)
        return {name: value.cpu() for name, value in self._fisher.information().items()}

    def _take(self, network: Network) -> None:
        weights.load_into(self._model, network.checkpoint.state, str(network.path))


class Comparison:
    """Adds up how two networks' answers differ, over batches of the same samples."""

    def __init__(self) -> None:
        self._count = self._different = 0
        self._kl = self._distance = 0.0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Logits [n, classes] each. Raises InputError for other numbers of classes."""
        if a.shape != b.shape or a.ndim != 2:
            raise InputError(f"logits of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
        x, y = a.double(), b.double()
        p, q = x.log_softmax(1), y.log_softmax(1)
        self._different += int((x.argmax(1) != y.argmax(1)).sum())
        self._kl += float((p.exp() * (p - q)).sum())
        self._distance += float((x - y).norm(dim=1).sum())
        self._count += len(x)

    def result(self) -> FunctionalDistance:
        """Raises InputError where there were no samples."""
        if self._count == 0:
            raise InputError("there are no inputs")
        return FunctionalDistance(
            self._different / self._count,
            max(self._kl / self._count, 0.0),
            self._distance / self._count,
            self._count,
        )


def functional(a: np.ndarray, b: np.ndarray) -> FunctionalDistance:
    """Of logits [N, classes] on the same samples."""
    found = Comparison()
    for begin in range(0, len(a), 4096):
        found.add(*(torch.from_numpy(np.array(part[begin : begin + 4096])) for part in (a, b)))
    return found.result()


def known(fisher: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The information of the parameters that are compared."""
    return {name: value for name, value in fisher.items() if name in network.weights}
