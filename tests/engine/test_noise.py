"""Label noise by class map, by a teacher's doubts and of a file: exact counts, keys and every mismatch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import class_map, noise
from modeconn_cli.engine.errors import InputError, McxError, SettingsError
from modeconn_cli.engine.settings.shared import DataSettings

N = 6000
IDS = torch.arange(N)
LABELS = keyed.integers(7, "labels of a test", IDS, 10)


def flipped(
    labels: torch.Tensor = LABELS, ids: torch.Tensor = IDS, dataset: str = "cifar10", **said: object
) -> noise.Flips:
    found = noise.flips_of(DataSettings(**said), labels, ids, 10, dataset)
    assert found is not None
    return found


def test_asymmetric_noise_obeys_patrinis_map_and_its_share_in_each_class() -> None:
    found = flipped(label_noise=0.3, label_seed=5, noise_kind="asymmetric")
    mapped = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
    for source in range(10):
        own = source == LABELS
        become = set(found.trained[own].tolist())
        assert become == ({source, mapped[source]} if source in mapped else {source})
        if source in mapped:
            count, n = int(found.flipped[own].sum()), int(own.sum())
            assert abs(count - 0.3 * n) < 4 * np.sqrt(n * 0.3 * 0.7)
    assert found.map == "2:0,3:5,4:7,5:3,9:1"


def test_asymmetric_flips_belong_to_seed_and_id() -> None:
    whole = flipped(label_noise=0.3, label_seed=5, noise_kind="asymmetric")
    some = torch.tensor([4000, 3, 17, 5999])
    part = flipped(LABELS[some], some, label_noise=0.3, label_seed=5, noise_kind="asymmetric")
    assert torch.equal(part.trained, whole.trained[some])
    other = flipped(label_noise=0.3, label_seed=6, noise_kind="asymmetric")
    assert not torch.equal(other.trained, whole.trained)
    every = flipped(label_noise=1.0, label_seed=5, noise_kind="asymmetric", noise_map="next")
    assert torch.equal(every.trained, (LABELS + 1) % 10)


def test_uniform_noise_is_what_it_was() -> None:
    """Pinned: the table of seed 0 as the version before made it."""
    found = flipped(label_noise=0.2, label_seed=0)
    assert (found.kind, found.map) == ("uniform", None)
    digest = hashlib.sha256(found.table().encode()).hexdigest()
    assert digest == "1dcef3fba9ee028af3ec910ec7a3d405f8ae24e5d67994155a23b4a6a4c121ab"
    again = flipped(label_noise=0.2, label_seed=0, noise_kind="uniform")
    assert again.table() == found.table()


@pytest.mark.parametrize(
    ("dataset", "words", "expected"),
    [
        ("mnist", None, {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}),
        ("cifar100", None, {k: (k + 1) % 10 for k in range(10)}),
        ("digits", "9:1,0:3", {9: 1, 0: 3}),
    ],
)
def test_maps_by_data_set_and_as_typed(dataset: str, words: str | None, expected: dict[int, int]) -> None:
    assert class_map.map_of(words, dataset, 10) == expected


@pytest.mark.parametrize(("name", "text"), [("map.yaml", "9: 1\n2: 0\n"), ("map.json", '{"9": 1, "2": 0}')])
def test_a_map_of_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert class_map.map_of(str(tmp_path / name), "digits", 10) == {9: 1, 2: 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("9:1,9:2", "names class 9 twice"),
        ("9:10", "the classes are 0 to 9"),
        ("3:3", "leaves class 3 what it is"),
        ("truck", "is no map of classes, and no file"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_what_is_no_map_is_refused(words: str, message: str) -> None:
    with pytest.raises(McxError, match=message):
        class_map.map_of(words, "digits", 10)


def test_a_file_that_is_no_map_is_refused(tmp_path: Path) -> None:
    for text in ("[1, 2]", "{1: {2: 3}}", "a: b", "{"):
        (tmp_path / "map.yaml").write_text(text)
        with pytest.raises(McxError):
            class_map.map_of(str(tmp_path / "map.yaml"), "digits", 10)


def test_a_teachers_flips_are_its_greatest_doubts_in_exact_number() -> None:
    labels, ids = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([4, 3, 2, 1, 0])
    p = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.5, 0.0], [0.1, 0.8, 0.1], [0.4, 0.1, 0.5], [0.5, 0.5, 0.0]])
    assert noise.by_teacher(p, labels, ids, 0.2).tolist() == [0, 1, 1, 0, 1]
    # Of the three that are doubted alike those of the lowest ids: 0, then 1.
    assert noise.by_teacher(p, labels, ids, 0.6).tolist() == [0, 1, 1, 2, 0]
    assert noise.by_teacher(p, labels, ids, 1.0).tolist() == [1, 0, 1, 2, 0]
    assert noise.by_teacher(p, labels, ids, 0.0).tolist() == labels.tolist()
    order = torch.tensor([3, 0, 4, 2, 1])
    again = noise.by_teacher(p[order], labels[order], ids[order], 0.6)
    assert torch.equal(again, noise.by_teacher(p, labels, ids, 0.6)[order])


def worse() -> np.ndarray:
    return np.where(np.arange(N) % 6 == 0, (LABELS.numpy() + 3) % 10, LABELS.numpy())


def written(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(each) for name, each in arrays.items()}, path)
    return path


@pytest.mark.parametrize("name", ["human.npz", "human.pt"])
def test_the_layout_of_cifar_n(tmp_path: Path, name: str) -> None:
    path = written(
        tmp_path / name, clean_label=LABELS.numpy(), worse_label=worse(), aggre_label=LABELS.numpy()
    )
    found = flipped(noise_file=Path(f"{path}::worse_label"))
    assert np.array_equal(found.trained.numpy(), worse())
    assert (found.kind, found.seed, found.share) == ("file", None, pytest.approx(1 / 6))
    with pytest.raises(SettingsError, match="holds several labels: worse_label, aggre_label"):
        flipped(noise_file=path)
    with pytest.raises(SettingsError, match="has no 'worst_label'"):
        flipped(noise_file=Path(f"{path}::worst_label"))


def test_a_table_of_a_run_and_a_plain_array_are_read_back(tmp_path: Path) -> None:
    made = flipped(label_noise=0.2, label_seed=3, noise_kind="asymmetric")
    (tmp_path / "label_noise.csv").write_text(made.table())
    back = flipped(noise_file=tmp_path / "label_noise.csv")
    assert torch.equal(back.trained, made.trained)
    assert back.table() == made.table()
    np.save(tmp_path / "noisy.npy", worse())
    assert np.array_equal(flipped(noise_file=tmp_path / "noisy.npy").trained.numpy(), worse())


def test_samples_that_a_table_does_not_name_may_not_be_used(tmp_path: Path) -> None:
    lines = flipped(label_noise=0.2, label_seed=3).table().splitlines()
    (tmp_path / "part.csv").write_text("\n".join([lines[0], *lines[11:]]) + "\n")
    found = flipped(noise_file=tmp_path / "part.csv")
    found.check(torch.arange(10, N))
    with pytest.raises(InputError, match="does not say the labels of 10 samples"):
        found.check(torch.arange(N))
    assert found.table() == "\n".join([lines[0], *lines[11:]]) + "\n"


def pickled(path: Path) -> Path:
    torch.save({"clean_label": LABELS.numpy(), "worse_label": worse()}, path)
    return path


def objects(path: Path) -> Path:
    np.save(path, np.array({"worse_label": worse()}, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: written(t / "a.npz", clean_label=(LABELS.numpy() + 1) % 10, worse_label=worse()),
            "is of other data",
        ),
        (lambda t: written(t / "b.npz", worse_label=worse()[:-1]), "5,999 labels, the training file 6,000"),
        (lambda t: written(t / "c.npz", clean_label=LABELS.numpy()[1:], worse_label=worse()), "5,999 labels"),
        (
            lambda t: written(t / "d.npz", worse_label=worse() + 5),
            "has label 14, and the data set 10 classes",
        ),
        (lambda t: written(t / "e.npz", worse_label=worse() / 2), "labels"),
        (lambda t: pickled(t / "f.pt"), "is not a readable .pt file of tensors and lists"),
        (lambda t: objects(t / "g.npy"), "Python objects"),
        (lambda t: t / "absent.npz", "absent.npz"),
    ],
)
def test_labels_of_other_data_are_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        flipped(noise_file=make(tmp_path))
    if "readable .pt" in message:
        assert "weights_only=False" in caught.value.hint


def test_positions_are_no_ids_where_these_have_gaps(tmp_path: Path) -> None:
    np.save(tmp_path / "noisy.npy", worse())
    with pytest.raises(InputError, match="labels by position"):
        flipped(ids=IDS * 2, noise_file=tmp_path / "noisy.npy")


def test_a_table_of_other_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sample_id,trained\n5,1\n7000,2\n")
    with pytest.raises(InputError, match="1 samples that the training file does not have: the first is 7000"):
        flipped(noise_file=tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("sample_id,label\n5,1\n")
    with pytest.raises(InputError, match="no column 'trained'"):
        flipped(noise_file=tmp_path / "b.csv")


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--noise-map has no effect with --noise-kind uniform"):
        flipped(label_noise=0.1, noise_map="1:2")
    with pytest.raises(SettingsError, match="--noise-kind has no effect without label noise"):
        noise.flips_of(DataSettings(noise_kind="asymmetric"), LABELS, IDS, 10, "digits")
    with pytest.raises(SettingsError, match="needs a teacher"):
        flipped(label_noise=0.1, noise_kind="instance")
