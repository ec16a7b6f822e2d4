"""Training: schedules by hand, resumed = uninterrupted, batch norm statistics, evaluation sums."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine import datasets, keyed
from modeconn_cli.engine.commands import train
from modeconn_cli.engine.commands.curve import train as curve_train
from modeconn_cli.engine.errors import InputError, SettingsError, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.settings.curve import CurveTrainSettings
from modeconn_cli.engine.settings.shared import DataSettings
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.training import evaluate, fit, make_optimizer, recompute_statistics
from modeconn_cli.engine.training.loop import Recipe
from modeconn_cli.engine.training.schedule import SCHEDULES

CPU = torch.device("cpu")


class Interrupted(Runtime):
    """A runtime that is told to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(threads=1)
        self._left = steps

    def stopping(self) -> bool:
        self._left -= 1
        return self._left <= 0


def test_the_garipov_schedule_is_flat_then_linear_then_a_hundredth() -> None:
    factors = [SCHEDULES["garipov"](epoch, 10) for epoch in range(1, 11)]
    expected = [1, 1, 1, 1, 1, 0.7525, 0.505, 0.2575, 0.01, 0.01]
    assert factors == pytest.approx(expected, abs=1e-12)


def test_the_other_schedules_begin_at_one() -> None:
    assert [SCHEDULES["cosine"](epoch, 4) for epoch in range(1, 5)] == pytest.approx(
        [1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    )
    assert [SCHEDULES["step"](epoch, 4) for epoch in range(1, 5)] == [1.0, 1.0, 0.1, 0.01]
    assert [SCHEDULES["constant"](epoch, 4) for epoch in range(1, 5)] == [1.0] * 4


def digits(**words: Any) -> datasets.Data:
    return datasets.load(DataSettings(dataset="digits", max_samples=300, **words), CPU)


def recipe(**words: Any) -> Recipe:
    base: dict[str, Any] = {
        "epochs": 2, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "optimizer": "sgd", "schedule": "constant",
        "batch_size": 64, "seed": 0, "data_seed": 0,
    }  # fmt: skip
    return Recipe(**{**base, **words})


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_loop_is_plain_training(optimizer: str) -> None:
    """The same steps written out with torch's own optimizer and batches drawn by hand."""
    data = digits()
    torch.manual_seed(0)
    ours, plain = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    how = recipe(optimizer=optimizer, lr=0.01)
    problem = train.NetworkProblem(ours, how.weight_decay)
    ends = list(fit(problem, make_optimizer(problem, how), data.fit, how, Runtime(threads=1)))

    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    reference = kind(plain.parameters(), lr=0.01, weight_decay=5e-4, **extra)  # type: ignore[arg-type]
    from modeconn_cli.engine import keyed

    for epoch in range(2):
        total = 0.0
        for rows in keyed.permutation(0, "order", len(data.fit), draw=epoch).split(64):
            images = (data.fit.images[rows].float() / 255 - 0.5) / 0.5
            loss = F.cross_entropy(plain(images), data.fit.labels[rows])
            reference.zero_grad()
            loss.backward()
            reference.step()
            total += float(loss.detach()) * len(rows)
        assert ends[epoch].loss == pytest.approx(total / len(data.fit), rel=1e-5)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_evaluation_is_the_mean_over_samples_for_any_batch_size() -> None:
    data = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    images = (data.test.images.double() / 255 - 0.5) / 0.5
    logits = (images.flatten(1) @ model[2].weight.double().T + model[2].bias.double()).detach()  # type: ignore[operator,union-attr]
    for size in (1, 7, 1000):
        score = evaluate(model, data.test, size)
        assert score.loss == pytest.approx(float(F.cross_entropy(logits, data.test.labels)), rel=1e-6)
        assert score.correct == int((logits.argmax(1) == data.test.labels).sum())
        assert score.accuracy + score.error == 100


@pytest.mark.parametrize("batch_size", [50, 64, 299, 300])
def test_recomputed_means_are_exact_and_variances_the_mean_of_the_batches(batch_size: int) -> None:
    data = digits()
    model = nn.Sequential(
        nn.BatchNorm2d(1, momentum=0.3), nn.Dropout(), nn.Flatten(), nn.Linear(64, 10)
    ).train()
    passes = recompute_statistics(model, data.fit, batch_size, seed=4)
    images = (data.fit.images.double() / 255 - 0.5) / 0.5
    layer = model[0]
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert float(layer.running_mean) == pytest.approx(float(images.mean()), rel=1e-5)
    # A batch of one would have no variance over samples; 299 leaves one, which joins the batch before it.
    assert passes == {50: 6, 64: 5, 299: 1, 300: 1}[batch_size]
    if passes == 1:
        assert float(layer.running_var) == pytest.approx(float(images.var()), rel=1e-5)
    assert (layer.momentum, model.training) == (0.3, False)


def without_time(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def train_network(folder: Path, runtime: Runtime, **words: Any) -> Path:
    settings = TrainSettings(
        model="cnn",
        model_arg=("width=4", "norm=batch"),
        dataset="synthetic",
        data_arg=("train=150", "test=30", "size=8", "channels=3"),
        transform="vgg",
        epochs=3,
        batch_size=50,
        save_freq=2,
        output_dir=folder,
        **words,
    )
    train.run(settings, runtime)
    return folder / "seed0"


def train_curve(folder: Path, runtime: Runtime, **words: Any) -> Path:
    first = train_network(folder.parent / "first", Runtime(threads=1))
    second = train_network(folder.parent / "second", Runtime(threads=1), data_seed=1)
    settings = CurveTrainSettings(
        endpoint0=first / "checkpoint-3.pt",
        endpoint1=second / "checkpoint-3.pt",
        epochs=3,
        batch_size=50,
        save_freq=2,
        init_method="perturbed",
        output_dir=folder,
        **words,
    )
    curve_train.run(settings, runtime)
    return folder / "checkpoints"


@pytest.mark.parametrize("run", [train_network, train_curve])
def test_e3_a_run_that_is_stopped_anywhere_and_continued_gives_the_same_bytes(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", Runtime(threads=1))
    for steps in (1, 4, 7):
        folder = tmp_path / f"stopped{steps}"
        with pytest.raises(Stopped) as stopped:
            run(folder, Interrupted(steps))
        assert stopped.value.exit_code == 75
        again = run(folder, Runtime(threads=1))
        assert without_time(again / "metrics.jsonl") == without_time(whole / "metrics.jsonl")
        assert not (again / "last.pt").exists()
        a, b = (checkpoints.integrity.load(f / "checkpoint-3.pt") for f in (again, whole))
        assert_same(a, b)
        if run is train_network:  # a curve's file names its endpoints' folder
            assert (again / "checkpoint-3.pt").read_bytes() == (whole / "checkpoint-3.pt").read_bytes()


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key not in ("output_dir", "endpoint0", "endpoint1"):
                assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_e9_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    folder = train_network(tmp_path, Runtime(threads=1))
    before = {path: path.read_bytes() for path in folder.glob("*.[pj]*")}
    train_network(tmp_path, Runtime(threads=1))
    assert {path: path.read_bytes() for path in folder.glob("*.[pj]*")} == before


def test_checkpoints_are_kept_at_zero_at_every_save_frequency_and_at_the_end(tmp_path: Path) -> None:
    folder = train_network(tmp_path, Runtime(threads=1))
    assert sorted(path.name for path in folder.glob("*.pt")) == [f"checkpoint-{e}.pt" for e in (0, 2, 3)]


def test_e8_a_changed_setting_is_refused_with_both_values(tmp_path: Path) -> None:
    train_network(tmp_path, Runtime(threads=1))
    with pytest.raises(InputError, match=r"'lr' was 0\.05, now 0\.1"):
        train_network(tmp_path, Runtime(threads=1), lr=0.1)


def test_e10_a_diverging_run_says_so_and_keeps_finite_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="became NaN or infinite by step"):
        train_network(tmp_path, Runtime(threads=1), lr=1e30)
    state = checkpoints.read(tmp_path / "seed0/checkpoint-0.pt").state
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_early_stopping_watches_validation_images_and_needs_some(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="validation images"):
        train_network(tmp_path / "none", Runtime(threads=1), patience=1)
    folder = train_network(tmp_path / "some", Runtime(threads=1), patience=1, min_delta=100.0, val_size=40)
    rows = without_time(folder / "metrics.jsonl")
    # The first epoch is the best so far; the second is not better by 100 nats.
    assert len(rows) == 2
    assert "val_loss" in rows[0]
    assert (folder / "checkpoint-2.pt").exists()


def test_e15_the_ends_of_a_trained_curve_are_the_endpoints_bit_for_bit(tmp_path: Path) -> None:
    folder = train_curve(tmp_path / "curve", Runtime(threads=1))
    points = checkpoints.read(folder / "checkpoint-3.pt").content["control_points"]
    begun = checkpoints.read(folder / "checkpoint-0.pt").content["control_points"]
    for k, name in ((0, "first"), (2, "second")):
        state = checkpoints.read(tmp_path / name / "seed0/checkpoint-3.pt").state
        assert all(torch.equal(points[k][n], state[n]) for n in points[k])
    assert not torch.equal(points[1]["conv1.weight"], begun[1]["conv1.weight"])


def test_free_ends_move(tmp_path: Path) -> None:
    folder = train_curve(tmp_path / "curve", Runtime(threads=1), fix_start=False)
    points = checkpoints.read(folder / "checkpoint-3.pt").content["control_points"]
    first, second = (
        checkpoints.read(tmp_path / n / "seed0/checkpoint-3.pt").state for n in ("first", "second")
    )
    assert not torch.equal(points[0]["conv1.weight"], first["conv1.weight"])
    assert torch.equal(points[2]["conv1.weight"], second["conv1.weight"])


def test_e12_a_curve_needs_a_free_point(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leaves nothing to train"):
        train_curve(tmp_path / "curve", Runtime(threads=1), num_bends=2)


def test_e16_no_epochs_leave_the_network_as_it_was_initialised(tmp_path: Path) -> None:
    words: dict[str, Any] = {"model": "mlp", "dataset": "digits", "output_dir": tmp_path, "epochs": 0}
    done = train.run(TrainSettings(**words), Runtime(threads=1))
    assert done is not None
    assert (done.networks[0].epoch, done.networks[0].train_loss) == (0, None)
    assert (tmp_path / "seed0/metrics.jsonl").read_text() == ""


def test_a_batch_norm_that_is_called_twice_has_one_mean_over_both_calls() -> None:
    """At places of different sizes too, where each value counts once."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.pool, self.head = nn.BatchNorm2d(1), nn.AvgPool2d(2), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(3 * self.pool(self.norm(x) + 1)).flatten(1))

    data, model = digits(), Twice().double()
    images = data.fit.take(torch.arange(300))
    first, second, sizes = [], [], []
    order = keyed.permutation(7, "statistics", 300)
    for batch in images.batches(64, order=order):
        x = batch.images.double()
        y = 3 * F.avg_pool2d(F.batch_norm(x, None, None, training=True) + 1, 2)
        first.append((x.mean(), x.var()))
        second.append((y.mean(), y.var()))
        sizes.append(len(x) * np.array([64, 16]))
    shares = np.array(sizes) / np.sum(sizes)
    figures = np.array([first, second]).transpose(1, 0, 2)  # [batches, calls, mean and variance]
    recompute_statistics(Cast(model), images, 64, seed=7)
    expected = (shares[:, :, None] * figures).sum((0, 1))
    assert float(model.norm.running_mean) == pytest.approx(expected[0], rel=1e-12)
    assert float(model.norm.running_var) == pytest.approx(expected[1], rel=1e-12)
    assert model.norm.momentum == 0.1


class Cast(nn.Module):
    """A network in float64, for images in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x.double())
        return found
