"""How far apart networks are in what they compute: logits on the same samples, and the Fisher information."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.commands.l2.chosen import Pair
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.commands.l2.weight_space import Networks, alike
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import completing, distances, subject, sums, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.distances import FunctionalDistance
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.networks.independent import TRIED, check_independent
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.results import files
from modeconn_cli.engine.samples.per_sample.fisher import DiagonalFisher
from modeconn_cli.engine.settings.base import plain
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.shared import SplitName

T = TypeVar("T")

AT_ONCE = 4096  # samples whose answers are compared at a time
BLOCKS = 20  # of samples, whose spread says how sure a Fisher distance is, itself to a sixth


@dataclass(frozen=True)
class Weighted:
    """Σ F (a − b)² by tensor, and the standard error of its root over all tensors.

    NaN where it is not known: with one block of samples, and where the information vanishes on all of them.
    """

    by_tensor: Mapping[str, float]
    stderr: float

    @classmethod
    def of(
        cls, first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], sizes: Sequence[int]
    ) -> Weighted:
        """From the blocks of samples, of these sizes, under both networks."""
        names, count = list(first[0]), sum(sizes)
        blocks = [{n: (a[n] + b[n]) / 2 for n in names} for a, b in zip(first, second, strict=True)]
        means = {
            n: math.fsum(s * block[n] for s, block in zip(sizes, blocks, strict=True)) / count for n in names
        }
        squared = math.fsum(means.values())
        if len(blocks) < 2 or squared == 0:
            return cls(means, math.nan)
        off = [math.fsum(block.values()) - squared for block in blocks]
        variance = math.fsum(s * d * d for s, d in zip(sizes, off, strict=True)) / (len(blocks) - 1) / count
        return cls(means, math.sqrt(variance) / (2 * math.sqrt(squared)))


def completed(networks: Networks, settings: L2Settings, runtime: Runtime) -> dict[str, L2Settings]:
    """The settings that every network is measured by: completed by the first of its kind that says its data."""
    usable = {label: network for label, network in networks.items() if isinstance(network, Network)}
    out = dict.fromkeys(usable, settings)
    for labels in alike(usable) if settings.needs_data else ():
        found = _decisive({label: usable[label] for label in labels}, settings, runtime.hushed())
        out |= dict.fromkeys(labels, completing.completed(settings, found.about, found.path))
    return out


def _decisive(networks: Mapping[str, Network], settings: L2Settings, runtime: Runtime) -> Checkpoint:
    """The checkpoint that says what network and data of all of them are."""
    found = completing.deciding([network.checkpoint for network in networks.values()])
    return recognised(found, settings, runtime)


class Functions:
    """Networks of one architecture, by label, on the data that the settings name, which are `completed`.

    `data` says by metric what the samples were, and `problems` by label why a network could not be measured.
    """

    def __init__(self, settings: L2Settings, networks: Mapping[str, Network], runtime: Runtime) -> None:
        self._settings, self._networks, self._runtime = settings, networks, runtime
        checkpoint = _decisive(networks, settings, runtime)
        for network in networks.values():
            self._compare(network, checkpoint.path)
        found = subject.open_described(
            checkpoint.about, checkpoint.path, settings, runtime, state=checkpoint.state
        )
        self._data, self._arch, self._model = found.data, found.arch, found.model.eval()
        for parameter in self._model.parameters():  # Fisher information is of frozen ones too
            parameter.requires_grad_(parameter.is_floating_point())
        self.data: dict[str, Mapping[str, Any]] = {}
        self.problems: dict[str, InputError] = {}

    def _compare(self, network: Network, decisive: Path) -> None:
        """Warn where a network was trained on other data than all are measured on."""
        said = network.checkpoint.about.data
        for name, there in {} if said is None else said.entries().items():
            here = plain(getattr(self._settings, name))
            if (here or None) != (there or None):
                self._runtime.warn(
                    f"'{network.path}' was trained with {name} {there}, all are measured with {here}, as "
                    f"'{decisive}' or the flags say"
                )
                return

    def fisher(self, pairs: Sequence[Pair]) -> dict[Pair, Weighted]:
        """Σ F (a − b)² with F the mean of both networks' diagonal Fisher information.

        F is estimated on a seeded random subset of the samples, of one network at a time, in blocks whose spread gives
        the standard error.
        """
        settings = self._settings
        samples = self._samples("fisher", "all-train")
        if settings.fisher_samples < len(samples):
            drawn = keyed.permutation(settings.seed, "fisher subset", len(samples))[: settings.fisher_samples]
            samples = samples.take(torch.sort(drawn.to(samples.device)).values)
        kind = {"kind": settings.fisher, "seed": settings.seed}
        self.data["fisher"] = {**kind, **self.data["fisher"], "samples": len(samples)}
        shape, note = self._arch.input_shape, self._runtime.note
        information = DiagonalFisher(self._model, shape, settings.fisher, settings.seed, note)

        # At random, as folders come class by class: a spread between classes would be none of samples.
        order = keyed.permutation(0, "fisher blocks", len(samples)).to(samples.device)
        blocks = [torch.sort(rows).values for rows in order.tensor_split(min(BLOCKS, len(samples)))]

        steps = sum(-(-len(rows) // settings.batch_size) for rows in blocks)
        whole = steps * len(self._networks)

        def weighted(label: str) -> dict[Pair, list[dict[str, float]]]:
            """Of every pair of a network, block by block and tensor by tensor."""
            information.begin()
            compared = self._networks[label].weights
            own = {pair: [self._networks[one].weights for one in pair] for pair in pairs if label in pair}
            out: dict[Pair, list[dict[str, float]]] = {pair: [] for pair in own}
            done = steps * list(self._networks).index(label)
            for rows in blocks:
                information.clear()
                for batch in samples.take(rows).batches(settings.batch_size):
                    information.add(batch.images, batch.labels, batch.ids)
                    done += 1
                    self._runtime.progress(done, whole, metric="fisher", checkpoint=label)
                named = weights.named_as(information.information(), compared)
                known = {name: f.cpu() for name, f in named.items() if name in compared}
                for pair, (a, b) in own.items():
                    out[pair].append(sums.weighted(a, b, known))
            return out

        found, sizes = self._each("fisher", weighted), [len(rows) for rows in blocks]
        return {
            (a, b): Weighted.of(found[a][a, b], found[b][a, b], sizes)
            for a, b in pairs
            if {a, b} <= set(found)
        }

    def functional(self, pairs: Sequence[Pair]) -> dict[Pair, FunctionalDistance]:
        """Every network's answers once, and every pair's difference."""
        samples = self._samples("functional", "test")
        with tempfile.TemporaryDirectory(prefix="mcx-") as folder:

            @torch.no_grad()
            def logits(label: str) -> Sequence[Tensor]:
                """float32 [N, classes] in pieces, mapped: those of all networks may be more than memory holds."""
                path = Path(folder) / str(list(self._networks).index(label))
                try:
                    with path.open("wb") as file:
                        for batch in samples.batches(self._settings.batch_size):
                            file.write(forward(self._model, batch.images).float().cpu().numpy().tobytes())
                except OSError as error:
                    raise files.refused(path, error) from error
                whole = torch.from_file(str(path), size=path.stat().st_size // 4, dtype=torch.float32)
                return torch.split(whole.view(len(samples), -1), AT_ONCE)

            found = self._each("functional", logits)
            answers = {(a, b): (found[a], found[b]) for a, b in pairs if {a, b} <= set(found)}
            return {pair: distances.functional(zip(*both, strict=True)) for pair, both in answers.items()}

    def _each(self, metric: str, measure: Callable[[str], T]) -> dict[str, T]:
        """What `measure` gives for every label, while the model holds that network's weights."""
        out: dict[str, T] = {}
        for done, (label, network) in enumerate(self._networks.items(), start=1):
            try:
                subject.check_said(network.checkpoint, self._arch, self._settings)
                weights.load_into(self._model, network.checkpoint.whole, str(network.path))
                out[label] = measure(label)
            except InputError as error:
                self.problems.setdefault(label, error)
            total = len(self._networks)
            self._runtime.progress(done, total, "network", metric=metric, checkpoint=label)
        return out

    def _samples(self, metric: str, otherwise: SplitName) -> Samples:
        """The split that is asked for, noted in `data`. Raises SettingsError where it is empty."""
        if otherwise == "test" and not self._data.use_test:
            otherwise = "val"
        split, noise = self._settings.split or otherwise, self._data.flips
        samples = self._data.split(split)
        if len(samples) == 0:
            raise SettingsError(
                f"data set '{self._data.name}' has no samples in split '{split}'", "choose --split"
            )
        images = next(iter(samples.batches(TRIED))).images
        check_independent(self._model, images, self._data.num_classes)
        self.data[metric] = {
            "dataset": self._data.name,
            "split": split,
            "samples": len(samples),
            "transform": samples.transform.describe(),
            "label_noise": 0.0 if noise is None or self._settings.labels == "clean" else noise.share,
        }
        return samples
