"""What `mcx curve eval` finds beside the losses: changes of class, ensembles."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.commands import NET

from modeconn_cli import api
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.paths.answers import smallest
from modeconn_cli.engine.paths.ensemble import Mean, calibration_error
from modeconn_cli.engine.paths.predictions import Predictions
from modeconn_cli.engine.paths.sharpness import Products, asked

OWN = ("--model", "alongnet:net", "--dataset", "digits", "--max-samples", "300")


@pytest.fixture(scope="module")
def normed(made_once: Callable) -> Path:
    """Two trained networks with batch norm that mcx does not register."""
    from modeconn_cli.cli import app

    def train(folder: Path) -> None:
        folder.mkdir()
        (folder / "alongnet.py").write_text(NET.replace("num_classes=3", "num_classes=10"))
        words = ["train", *OWN, "--seeds", "0,1", "--epochs", "8", "--lr", "0.2", "--output-dir", str(folder)]
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(folder))
            assert app.main([*words, "-q"]) == 0

    return made_once("along", train)


@pytest.fixture
def line(normed: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The words that evaluate the line between them."""
    monkeypatch.syspath_prepend(str(normed))
    ends = (str(normed / f"seed{k}/checkpoint-8.pt") for k in (0, 1))
    return ("curve", "eval", *ends, *OWN, "--num-points", "5", "-q")


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def calls(run: Callable[[], object]) -> int:
    """How often any module is called while something runs."""
    count = 0

    def seen(_module: object, _inputs: object) -> None:
        nonlocal count
        count += 1

    hook = torch.nn.modules.module.register_module_forward_pre_hook(seen)
    run()
    hook.remove()
    return count


def test_predictions_cost_no_pass_and_change_no_number(mcx: Callable, line, tmp_path: Path) -> None:
    counted = [
        calls(lambda name=name, more=more: mcx(*line, *more, "--output-dir", tmp_path / name))
        for name, more in (("plain", ()), ("kept", ("--save-predictions",)))
    ]
    assert counted[0] == counted[1] > 0
    assert (tmp_path / "plain/curve.npz").read_bytes() == (tmp_path / "kept/curve.npz").read_bytes()


def test_predictions_are_those_of_the_network_at_each_position(mcx: Callable, line, tmp_path: Path) -> None:
    assert mcx(*line, "--save-predictions", "--output-dir", tmp_path).code == 0
    found, curve = arrays(tmp_path / "predictions.npz"), arrays(tmp_path / "curve.npz")
    assert found["classes"].dtype == np.uint8
    assert found["confidence"].dtype == np.float32
    np.testing.assert_array_equal(found["ts"], curve["ts"])
    right = (found["classes"] == found["labels"]).sum(1)
    np.testing.assert_array_equal(100 - 100 * right / len(found["labels"]), curve["te_err"])
    np.testing.assert_array_equal(found["predictions"], found["classes"])
    np.testing.assert_array_equal(found["targets"], found["labels"])
    path = api.curve(line[2], line[3], model="alongnet:net", dataset="digits", max_samples=300)
    data = path.data.held_out
    np.testing.assert_array_equal(found["ids"], data.ids.numpy())
    for k in (0, 2):
        network = path.at(float(found["ts"][k]))
        with torch.no_grad():
            batch = next(iter(data.batches(len(data))))
            probabilities = network.double()(batch.images.double()).softmax(1).numpy()
        np.testing.assert_array_equal(found["classes"][k], probabilities.argmax(1))
        np.testing.assert_allclose(found["confidence"][k], probabilities.max(1), rtol=1e-4)


def test_changes_are_listed_where_they_are(mcx: Callable, line, tmp_path: Path) -> None:
    done = mcx(*line, "--save-predictions", "--output-dir", tmp_path)
    found = arrays(tmp_path / "predictions.npz")
    expected = [
        (found["ids"][n], found["labels"][n], found["ts"][k], found["ts"][k + 1], classes[k], classes[k + 1])
        for n, classes in enumerate(found["classes"].T)
        for k in range(4)
        if classes[k] != classes[k + 1]
    ]
    with (tmp_path / "prediction_changes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["sample_id", "label", "t_before", "t_after", "class_before", "class_after"]
    assert [tuple(map(float, row.values())) for row in rows] == [tuple(map(float, row)) for row in expected]
    every, *classes = json.loads((tmp_path / "curve_summary.json").read_text())["predictions"]
    assert every["changes"] == len(rows) == sum(each["changes"] for each in classes)
    assert every["changing"] == len({row["sample_id"] for row in rows})
    assert (tmp_path / "prediction_changes.png").read_bytes().startswith(b"\x89PNG")
    assert "Samples that change class along the path (test)" in done.out


def test_samples_are_counted_by_class_and_by_both_ends() -> None:
    labels = np.array([0, 0, 1, 1])
    classes = np.array([[0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 0]], dtype=np.uint8)
    found = Predictions(np.linspace(0, 1, 3), np.arange(4), labels, classes, np.ones((3, 4), np.float32))
    every, zero, one = found.by_class()
    assert (every.samples, every.changing, every.changes) == (4, 3, 3)
    assert (every.right, every.wrong, every.lost, every.gained) == (1, 0, 2, 1)
    assert (zero.label, zero.changing, zero.lost) == (0, 1, 1)
    assert (one.label, one.changing, one.gained, one.lost) == (1, 2, 1, 1)


def test_the_numbers_of_classes_take_the_smallest_type() -> None:
    assert [smallest(count) for count in (2, 256, 257, 65536, 65537)] == [
        np.uint8, np.uint8, np.uint16, np.uint16, np.uint32,
    ]  # fmt: skip


def test_more_can_be_asked_for_later_and_an_exchanged_part_is_measured_again(
    mcx: Callable, line, tmp_path: Path
) -> None:
    whole = ("--save-predictions", "--ensemble", "0,0.3,1")
    assert mcx(*line, *whole, "--output-dir", tmp_path / "whole").code == 0
    for more in ((), ("--ensemble", "0,0.3,1"), whole):
        assert mcx(*line, *more, "--output-dir", tmp_path / "grown").code == 0
    for name in ("curve.npz", "predictions.npz", "prediction_changes.csv"):
        assert (tmp_path / "grown" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    found = [
        json.loads((tmp_path / name / "curve_summary.json").read_text())["ensemble"]
        for name in ("whole", "grown")
    ]
    assert found[0] == found[1]
    part = next((tmp_path / "grown/.mcx/curve-eval/answers").glob("answers-0.5.npz"))
    (tmp_path / "grown/.mcx/curve-eval/manifest.json").unlink()
    kept = part.read_bytes()
    part.write_bytes(kept[:-30] + bytes(30))
    assert mcx(*line, *whole, "--output-dir", tmp_path / "grown").code == 0
    assert part.read_bytes() == kept
    name = "predictions.npz"
    assert (tmp_path / "grown" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_calibration_error_of_a_table_by_hand() -> None:
    # Bins of a fifteenth: (0.6, 0.667] holds three answers, (0.933, 1] two.
    confidence = np.array([0.61, 0.64, 0.66, 0.95, 0.97])
    right = np.array([True, False, True, True, True])
    expected = (abs(2 - (0.61 + 0.64 + 0.66)) + abs(2 - (0.95 + 0.97))) / 5
    assert calibration_error(confidence, right) == pytest.approx(expected, rel=1e-14)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert calibration_error(np.array([1 / 3, 0.3]), np.array([True, False])) == pytest.approx(
        abs(1 - 1 / 3 - 0.3) / 2
    ), "the upper edge belongs to its bin: (4/15, 5/15]"


def test_the_ensemble_of_equal_members_is_the_member() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 7, generator=draw) * 5, torch.randint(0, 7, (50,), generator=draw)
    for count in (2, 3, 7):
        mean = Mean(labels)
        members = [mean.add(logits) for _ in range(count)]
        assert members[0] == members[-1] == mean.quality()


def test_the_ensemble_is_the_mean_of_probabilities() -> None:
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (60,), generator=draw)
    members = [torch.randn(60, 4, generator=draw) * 3 for _ in range(3)]
    mean = Mean(labels)
    for logits in members:
        assert mean.add(logits).nll == float(cross_entropy(logits, labels).mean())
    p = np.mean([logits.double().softmax(1).numpy() for logits in members], axis=0)
    found = mean.quality()
    assert found.accuracy == pytest.approx(100 * (p.argmax(1) == labels.numpy()).mean())
    assert found.nll == pytest.approx(-np.log(p[np.arange(60), labels.numpy()]).mean(), rel=1e-12)
    assert found.ece == pytest.approx(calibration_error(p.max(1), p.argmax(1) == labels.numpy()), rel=1e-12)


@pytest.mark.parametrize("bn", ["recompute", "repair", "keep"])
def test_members_are_positions_and_the_weight_average_is_measured_as_one(
    mcx: Callable, line, tmp_path: Path, bn: str
) -> None:
    done = mcx(*line, "--ensemble", "1,0.3,0", "--bn", bn, "--output-dir", tmp_path)
    assert done.code == 0
    assert "Ensemble along the path" in done.out
    found, curve = json.loads((tmp_path / "curve_summary.json").read_text()), arrays(tmp_path / "curve.npz")
    members = found["ensemble"]["members"]
    assert [each["t"] for each in members] == [0, 0.3, 1]
    assert len(curve["ts"]) == 5, "a member elsewhere is none of the positions"
    for member, k in ((members[0], 0), (members[2], -1)):
        assert member["nll"] == pytest.approx(curve["te_nll"][k], rel=1e-12)
        assert member["accuracy"] == pytest.approx(curve["te_acc"][k], rel=1e-12)
    # On a straight line the mean of the weights lies at the mean of t.
    there = ("--ensemble", "0,0.43333333333333335")
    assert mcx(*line, *there, "--bn", bn, "--output-dir", tmp_path / "middle").code == 0
    middle = json.loads((tmp_path / "middle/curve_summary.json").read_text())["ensemble"]["members"][1]
    assert found["ensemble"]["weight_average"]["nll"] == pytest.approx(middle["nll"], rel=1e-4)
    assert found["ensemble"]["weight_average"]["accuracy"] == pytest.approx(middle["accuracy"], abs=0.4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ensemble", "0.5"), "an ensemble has two members or more"),
        (("--ensemble", "0,1.5"), "--ensemble must be at most 1, got 1.5"),
        (("--ensemble", "0,0"), "--ensemble names 0.0 twice"),
    ],
)
def test_an_ensemble_that_is_none_is_refused(mcx: Callable, line, tmp_path: Path, words, said: str) -> None:
    done = mcx(*line, *words, "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not (tmp_path / "out").exists()


SHARP = ("--hessian-top", "2", "--hessian-trace", "3", "--hessian-samples", "50")


def test_the_hessian_is_that_of_the_network_at_each_position(mcx: Callable, line, tmp_path: Path) -> None:
    done = mcx(*line, *SHARP, "--output-dir", tmp_path)
    assert done.code == 0
    assert "Sharpness along the path" in done.out
    assert "on 50 training images" in done.out
    found = arrays(tmp_path / "curve.npz")
    assert found["hessian_top"].shape == (5, 2)
    path = api.curve(line[2], line[3], model="alongnet:net", dataset="digits", max_samples=300)
    few = asked(0, 0, 50, path.data.fit, 128, 0, frozenset(), lambda: None).samples
    network = path.at(0.5)
    products = Products(network, few, 50)
    hessian = torch.stack([products(v) for v in torch.eye(products.size, dtype=torch.float64)])
    expected = np.linalg.eigvalsh(hessian.numpy())[::-1][:2]
    np.testing.assert_allclose(found["hessian_top"][2], expected, rtol=1e-3)
    assert abs(found["hessian_trace"][2] - float(hessian.trace())) < 6 * found["hessian_trace_stderr"][2]
    assert (tmp_path / "sharpness.png").read_bytes().startswith(b"\x89PNG")


def test_the_hessian_of_a_repaired_network_can_be_asked_for_later(
    mcx: Callable, line, tmp_path: Path
) -> None:
    repair = ("--bn", "repair")
    assert mcx(*line, *repair, *SHARP, "--output-dir", tmp_path / "whole").code == 0
    for more in ((), ("--hessian-top", "1"), SHARP):
        assert mcx(*line, *repair, *more, "--output-dir", tmp_path / "grown").code == 0
    assert (tmp_path / "grown/curve.npz").read_bytes() == (tmp_path / "whole/curve.npz").read_bytes()
    plain = mcx(*line, *repair, "--output-dir", tmp_path / "plain")
    assert plain.code == 0
    one, other = (arrays(tmp_path / name / "curve.npz") for name in ("plain", "whole"))
    assert all(np.array_equal(one[name], other[name]) for name in one), "the losses are what they were"


def test_images_for_no_hessian_are_refused(mcx: Callable, line, tmp_path: Path) -> None:
    done = mcx(*line, "--hessian-samples", "5", "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert "--hessian-samples has no effect without --hessian-top or --hessian-trace" in done.err
    done = mcx(*line, "--hessian-top", "600", "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert "--hessian-top 600: the network has" in done.err
