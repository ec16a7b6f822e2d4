"""Simplexes: volumes and gradients against closed forms and autograd, and the command on trained networks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.paths.path import WeightPath
from modeconn_cli.engine.paths.simplex import SimplexProblem, log_volume, new_vertex, uniform_shares


def regular(n: int, side: float) -> Tensor:
    """The n + 1 vertices of a regular simplex, in a corner of n + 1 dimensions and moved away from it."""
    return torch.eye(n + 1, 40, dtype=torch.float64) * side / math.sqrt(2) + 3.0


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("side", [0.5, 2.0])
def test_the_volume_of_a_regular_simplex_is_the_closed_form(n: int, side: float) -> None:
    wanted = side**n * math.sqrt(n + 1) / (math.factorial(n) * math.sqrt(2**n))
    assert math.exp(log_volume(regular(n, side))[0]) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("n", range(1, 6))
def test_the_gradient_of_the_volume_is_that_of_autograd(n: int) -> None:
    torch.manual_seed(n)
    points = torch.randn(n + 1, 30, dtype=torch.float64)
    vertex = points[-1].clone().requires_grad_(True)
    edges = points[:-1] - vertex
    found, shares = log_volume(points)
    (0.5 * torch.logdet(edges @ edges.T)).backward()
    assert vertex.grad is not None
    assert torch.allclose(shares @ points, vertex.grad, rtol=1e-10)
    height = 1 / float(vertex.grad.norm())
    base = log_volume(points[:-1])[0] if n > 1 else 0.0
    assert found == pytest.approx(base + math.log(height / n), rel=1e-10)


def test_vertices_in_a_plane_of_fewer_dimensions_have_no_volume() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    with pytest.raises(InputError, match="has no volume"):
        log_volume(points)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_points_are_uniform(count: int) -> None:
    """Moments of the flat Dirichlet distribution, 1/n, and of squares 2/(n (n + 1)), within five standard errors."""
    drawn = torch.stack([uniform_shares(0, k, count) for k in range(2000)])
    assert torch.allclose(drawn.sum(1), torch.ones(2000, dtype=torch.float64))
    assert (drawn >= 0).all()
    for power, wanted in ((1, 1 / count), (2, 2 / (count * (count + 1)))):
        values = drawn**power
        error = values.std(0) / math.sqrt(2000)
        assert ((values.mean(0) - wanted).abs() < 5 * error).all()


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 4)).double()


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_the_gradient_of_the_new_vertex_is_that_of_autograd(compat: bool, same: bool) -> None:
    """Loss and penalty over three points, and the volume of a complex; in float64."""
    vertices = [
        {n: p.detach().clone() for n, p in network(k).named_parameters()} for k in (0, 0 if same else 1, 2, 3)
    ]
    model, seed, draws = network(5), 7, 3
    problem = SimplexProblem(
        model, WeightPath.through("polychain", vertices, model), weight_decay=0.01, seed=seed, volume_weight=0.1,
        draws=draws, compat=compat,
    )  # fmt: skip
    assert problem.simplexes == ([[0, 2, 3]] if same else [[0, 2, 3], [1, 2, 3]])
    x, y = torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 4
    new = {n: p.clone().requires_grad_(True) for n, p in vertices[-1].items()}
    total, extras, used = torch.zeros((), dtype=torch.float64), [], set()
    for draw in range(6, 9):  # the third step
        problem.place(draw)
        at = {n: p.detach().clone() for n, p in model.named_parameters()}
        F.cross_entropy(model(x), y).backward()
        extras.append(float(problem.collect()))
        shares = uniform_shares(seed, draw, 3)
        for chosen in problem.simplexes:
            points = [*(vertices[k] for k in chosen[:-1]), new]
            blend = {n: sum(s * p[n] for s, p in zip(shares.tolist(), points, strict=True)) for n in new}
            if all(torch.allclose(blend[n], at[n], rtol=1e-12) for n in at):  # type: ignore[arg-type]
                used.add(chosen[0])
                loss = F.cross_entropy(functional_call(network(5), blend, (x,)), y)  # type: ignore[arg-type]
                total = total + loss + 0.005 * sum((p**2).sum() for p in blend.values())  # type: ignore[union-attr]
    flat = [torch.cat([p.reshape(-1) for p in v.values()]) for v in (*vertices[:-1], new)]
    volumes = []
    for chosen in problem.simplexes:
        edges = torch.stack([flat[k] - flat[-1] for k in chosen[:-1]])
        volumes.append(torch.linalg.det(edges @ edges.T).sqrt() / 2)
    logarithm = sum(v ** (2 if compat else 1) for v in volumes).log()  # type: ignore[union-attr]
    (total / (1 if compat else draws) - 0.1 * logarithm).backward()
    assert used
    grad = problem.trainable[0].grad
    assert grad is not None
    for name, view in problem.path.layout.views(grad[0]).items():
        expected = new[name].grad
        assert expected is not None
        assert torch.allclose(view, expected, rtol=1e-9, atol=1e-13), name
    found, _ = problem.log_volume()
    assert found == pytest.approx(float(sum(volumes).log().detach()), rel=1e-10)  # type: ignore[union-attr]


def test_a_new_vertex_lies_near_the_mean_of_the_others() -> None:
    first, last = ({n: p.detach() for n, p in network(k).named_parameters()} for k in (0, 1))
    new = new_vertex([first, last], 0, ["1.bias"])
    for name in new:
        away = float((new[name] - (first[name] + last[name]) / 2).norm() / (first[name] - last[name]).norm())
        assert away == pytest.approx(0 if name == "1.bias" else 0.01, rel=1e-9, abs=1e-15)


def trained(folder: Path) -> Path:
    return folder / "checkpoints/checkpoint-2.pt"


def test_a_triangle_grows_at_two_networks(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    """Vertex after vertex: what was there stays, bit for bit, and any point is a network."""
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    own = [checkpoints.read(path).state for path in ends]
    words = (
        *ends,
        "--simplex",
        "--epochs",
        "2",
        "--lr",
        "0.05",
        "--eval-every",
        "1",
        "--simplex-samples",
        "2",
    )
    done = mcx("curve", "train", *words, "--output-dir", tmp_path / "one", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["curve"], result["num_bends"]) == ("simplex", 3)
    begun = ("--init-curve", trained(tmp_path / "one"), "--output-dir", tmp_path / "two")
    done = mcx("curve", "train", *words, *begun, "-q")
    assert done.code == 0, done.err
    one, two = (
        torch.load(trained(tmp_path / name), weights_only=True)["control_points"] for name in ("one", "two")
    )
    assert (len(one), len(two)) == (3, 4)
    for k in (0, 1):
        assert all(torch.equal(one[k][n], own[k][n]) for n in one[k])
    assert all(torch.equal(one[k][n], two[k][n]) for k in range(3) for n in one[k])
    points = torch.stack([torch.cat([t.reshape(-1) for t in point.values()]) for point in two]).double()
    volumes = [math.exp(log_volume(points[[end, 2, 3]])[0]) for end in (0, 1)]
    last = json.loads((tmp_path / "two/checkpoints/metrics.jsonl").read_text().splitlines()[-1])
    assert last["log_volume"] == pytest.approx(math.log(sum(volumes)), rel=1e-4)
    output = tmp_path / "point.pt"
    done = mcx(
        "curve", "extract", trained(tmp_path / "two"), "--shares", "1,0,1,2", "--output", output, "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["shares"] == [1, 0, 1, 2]
    found = checkpoints.read(output).state
    for name, tensor in found.items():
        wanted = 0.25 * two[0][name] + 0.25 * two[2][name] + 0.5 * two[3][name]
        assert torch.allclose(tensor, wanted, atol=1e-6)


REFUSED = {
    "eval": ("holds a simplex, which is no path", 3),
    "shares": ("--shares has 2 numbers", 2),
    "ends": ("endpoint 1 is not that of the simplex", 3),
    "curve": ("holds no simplex", 3),
    "bends": ("--num-bends has no effect with --simplex", 2),
    "compat": ("--compat has no effect without --simplex", 2),
}


@pytest.fixture(scope="module")
def edge(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simplex at a single network: a line from it."""
    from modeconn_cli.cli import app

    folder, end = tmp_path_factory.mktemp("edge"), str(networks / "seed0/checkpoint-4.pt")
    words = [end, end, "--simplex", "--epochs", "2", "--max-samples", "64", "--output-dir", str(folder), "-q"]
    assert app.main(["curve", "train", *words]) == 0
    return trained(folder)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_meaning_for_a_simplex_is_refused(
    mcx: Callable, networks: Path, edge: Path, tmp_path: Path, kind: str
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words: dict[str, tuple[str | Path, ...]] = {
        "eval": ("eval", edge, "--output-dir", tmp_path / "x"),
        "shares": ("extract", edge, "--shares", "1,2", "--output", tmp_path / "x"),
        "ends": ("train", *ends, "--simplex", "--init-curve", edge, "--output-dir", tmp_path / "x"),
        "curve": ("train", *ends, "--simplex", "--init-curve", ends[0], "--output-dir", tmp_path / "x"),
        "bends": ("train", *ends, "--simplex", "--num-bends", "4", "--output-dir", tmp_path / "x"),
        "compat": ("train", *ends, "--compat", "benton", "--output-dir", tmp_path / "x"),
    }
    done = mcx("curve", *words[kind])
    assert (done.code, REFUSED[kind][0] in done.err) == (REFUSED[kind][1], True), done.err
    assert not (tmp_path / "x").exists()


def test_a_single_network_is_left_along_a_line(edge: Path) -> None:
    points = torch.load(edge, weights_only=True)["control_points"]
    assert all(torch.equal(points[0][n], points[1][n]) for n in points[0])
    away = math.sqrt(sum(float((points[2][n] - points[0][n]).double().square().sum()) for n in points[0]))
    assert np.isfinite(away)
    assert away > 0


def test_a_stopped_training_goes_on_bit_for_bit(
    mcx: Callable, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the positions that an uninterrupted one draws."""
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = ("curve", "train", *ends, "--simplex", "--epochs", "2", "--max-samples", "512", "-q")
    assert mcx(*words, "--output-dir", tmp_path / "whole").code == 0
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "train.after_step:6=usr2")
    stopped = mcx(*words, "--output-dir", tmp_path / "cut")
    assert stopped.code == 75, stopped.err
    assert not trained(tmp_path / "cut").exists()
    monkeypatch.delenv("MCX_FAILPOINT")
    assert mcx(*words, "--output-dir", tmp_path / "cut").code == 0
    one, two = (
        torch.load(trained(tmp_path / name), weights_only=True)["control_points"] for name in ("whole", "cut")
    )
    assert all(torch.equal(a[n], b[n]) for a, b in zip(one, two, strict=True) for n in a)


@pytest.mark.slow
def test_what_lies_between_two_trained_networks_is_of_low_loss(mcx: Callable, tmp_path: Path) -> None:
    """The middle of an edge is as good as a network, where the straight line is at chance; the volume grows with λ."""
    words = (
        "--model",
        "cnn",
        "--model-arg",
        "width=8",
        "--dataset",
        "digits",
        "--seeds",
        "0,1",
        "--lr",
        "0.1",
    )
    assert mcx("train", *words, "--epochs", "15", "--output-dir", tmp_path / "runs", "-q").code == 0
    ends = [tmp_path / f"runs/seed{k}/checkpoint-15.pt" for k in (0, 1)]
    assert mcx("curve", "eval", *ends, "--num-points", "3", "--output-dir", tmp_path / "line", "-q").code == 0
    with np.load(tmp_path / "line/curve.npz") as line:
        assert line["te_nll"][1] > 2
    volumes = []
    for weight in ("0", "1"):
        folder = tmp_path / weight
        more = ("--epochs", "15", "--lr", "0.05", "--eval-every", "15", "--volume-weight", weight)
        assert mcx("curve", "train", *ends, "--simplex", *more, "--output-dir", folder, "-q").code == 0
        row = json.loads((folder / "checkpoints/metrics.jsonl").read_text().splitlines()[-1])
        assert row["test_loss_middle"] < 0.3
        volumes.append(row["log_volume"])
    assert volumes[1] > volumes[0]


NET = """
from torch import nn


def net(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, num_classes))
"""


def test_a_point_has_the_statistics_of_the_network_there(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that is not registered: the mean and the variance of what its first layer gives there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "simplexnet.py").write_text(NET)
    random = np.random.default_rng(0)
    images = random.random((60, 1, 8, 8), dtype=np.float32)
    np.savez("d.npz", x_train=images, y_train=np.arange(60) % 3, x_test=images[:9], y_test=np.arange(9) % 3)
    own = ("--model", "simplexnet:net", "--dataset", "d.npz", "--epochs", "2")
    assert mcx("train", *own, "--seeds", "0,1", "--output-dir", "runs", "-q").code == 0
    ends = [f"runs/seed{k}/checkpoint-2.pt" for k in (0, 1)]
    assert mcx("curve", "train", *ends, *own, "--simplex", "--output-dir", "s", "-q").code == 0
    words = ("--shares", "3,0,1", "--batch-size", "60", "--output", "p.pt")
    done = mcx("curve", "extract", trained(Path("s")), *own[:4], *words)
    assert done.code == 0, done.err
    found = checkpoints.read(Path("p.pt")).state
    given = torch.from_numpy(images).flatten(1) @ found["1.weight"].T + found["1.bias"]
    assert torch.allclose(found["2.running_mean"], given.mean(0), atol=1e-5)
    assert torch.allclose(found["2.running_var"], given.var(0), rtol=1e-4)
