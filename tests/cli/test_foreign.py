"""`mcx csl aggregate --from` and `--export`: other tools' files, their definitions, and all that can be wrong."""

from __future__ import annotations

import itertools
import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import parquet
from modeconn_cli.engine.results.streams import Written
from modeconn_cli.engine.samples import foreign, scores
from modeconn_cli.engine.samples.foreign import aum, cartography
from modeconn_cli.engine.settings.csl import CslAggregateSettings

AUM = Path(__file__).parents[1] / "data/aum"  # made by the package aum 1.0.2 of these logits
N, E, K = 10, 5, 4


def logits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z [E, N, K], labels [N], ids [N] of ten instances at five epochs; the first is never learnt."""
    rng = np.random.default_rng(3)
    z, gold, ids = 2 * rng.normal(size=(E, N, K)), rng.integers(0, K, N), rng.permutation(50)[:N]
    z[:, 0, gold[0]] = -9.0
    z[:, 1, gold[1]] = [9.0, -9.0, 9.0, -9.0, 9.0]
    return z.astype(np.float32), gold, ids


def dynamics(folder: Path, guids: list | None = None) -> Path:
    """`training_dynamics` of these logits, every epoch in another order."""
    z, gold, ids = logits()
    names = ids.tolist() if guids is None else guids
    folder.mkdir(parents=True, exist_ok=True)
    for e in range(E):
        order = np.random.default_rng(e).permutation(N)
        rows = [
            {"guid": names[i], f"logits_epoch_{e}": z[e, i].tolist(), "gold": int(gold[i])} for i in order
        ]
        (folder / f"dynamics_epoch_{e}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"scores_{name}_run1_noise_0.csv", index_col=0)


def made(mcx: Callable, output: Path, *words: object) -> dict:
    done = mcx("csl", "aggregate", *words, "--output-dir", output, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def refused(mcx: Callable, output: Path, *words: object, code: int = 3) -> str:
    done = mcx("csl", "aggregate", *words, "--output-dir", output)
    assert (done.code, done.out) == (code, ""), done.err
    assert not list(output.glob("scores_*")), "nothing is written of what cannot be used"
    return done.err


# What is read ----------------------------------------------------------------------------------------------


def test_aum_is_that_of_the_package_from_its_records_its_values_and_the_same_logits(
    mcx: Callable, tmp_path: Path
) -> None:
    expected = pd.read_csv(AUM / "aum_values.csv").set_index("sample_id")["aum"].sort_index()
    found = made(mcx, tmp_path / "out", "--from", AUM / "full_aum_records.csv")
    assert (found["kind"], found["samples"], found["kept_epochs"]) == ("aum records", 8, [1, 2, 3, 4])
    of_records = table(tmp_path / "out", "aum")
    np.testing.assert_allclose(of_records["aum"], expected, atol=1e-6)
    assert "confidence" in found["absent"], "probabilities cannot be told of two logits"
    made(mcx, tmp_path / "values", "--from", AUM / "aum_values.csv")
    of_values = table(tmp_path / "values", "aum")
    assert list(of_values) == ["aum"]
    np.testing.assert_allclose(of_values["aum"], expected, atol=1e-6)

    with np.load(AUM / "logits.npz") as archive:
        z, labels, ids = archive["logits"], archive["labels"], archive["sample_ids"]
    for e in range(len(z)):
        rows = [
            {"guid": int(i), f"logits_epoch_{e}": row.tolist(), "gold": int(label)}
            for i, row, label in zip(ids, z[e], labels, strict=True)
        ]
        (tmp_path / f"{e}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made(mcx, tmp_path / "of logits", "--from", ",".join(str(tmp_path / f"{e}.jsonl") for e in range(len(z))))
    ours = table(tmp_path / "of logits", "cartography")
    for name in ("aum", "margin_last", "margin_min", "correctness", "forgetting"):
        np.testing.assert_allclose(ours[name], of_records[name], atol=1e-6, err_msg=name)


def test_files_are_read_in_pieces_with_the_lines_of_the_whole(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, folder = AUM / "full_aum_records.csv", dynamics(tmp_path / "td")
    made(mcx, tmp_path / "whole", "--from", records)
    made(mcx, tmp_path / "whole", "--from", folder)
    monkeypatch.setattr(aum, "ROWS", 5)
    monkeypatch.setattr(cartography, "ROWS", 3)
    made(mcx, tmp_path / "pieces", "--from", records)
    made(mcx, tmp_path / "pieces", "--from", folder, "--export", "cleanlab")
    for name in ("aum", "cartography"):
        pd.testing.assert_frame_equal(table(tmp_path / "pieces", name), table(tmp_path / "whole", name))
    rows = lines_of(records)
    (tmp_path / "a.csv").write_text("".join([*rows, rows[2]]))
    err = refused(mcx, tmp_path / "out", "--from", tmp_path / "a.csv")
    assert "line 34, is measurement 2 of sample 0 a second time" in err
    in_dynamics(2, with_record(8, gold=17))(folder)
    assert "epoch_2.jsonl', line 9, has gold '17'" in refused(mcx, tmp_path / "out", "--from", folder)


def test_records_in_any_order_and_with_the_names_of_logits_and_classes_exchanged_are_the_same(
    mcx: Callable, tmp_path: Path
) -> None:
    whole = pd.read_csv(AUM / "full_aum_records.csv")
    whole.sample(frac=1, random_state=0).to_csv(tmp_path / "shuffled.csv", index=False)
    other = {"target_val": "target_logit", "target_logit": "target_val", "other_val": "other_logit",
             "other_logit": "other_val"}  # fmt: skip
    whole.rename(columns=other).to_csv(tmp_path / "exchanged.csv", index=False)
    made(mcx, tmp_path / "whole", "--from", AUM / "full_aum_records.csv")
    for name in ("shuffled", "exchanged"):
        made(mcx, tmp_path / name, "--from", tmp_path / f"{name}.csv")
        pd.testing.assert_frame_equal(table(tmp_path / name, "aum"), table(tmp_path / "whole", "aum"))


def loop_of_cartography() -> pd.DataFrame:
    """Confidence, variability, correctness and forgetfulness as published, one instance after the other."""
    z, gold, ids = logits()
    rows = {}
    for i in range(N):
        probabilities, right = [], []
        for e in range(E):
            exps = [math.exp(float(v)) for v in z[e, i]]
            probabilities.append(exps[gold[i]] / sum(exps))
            right.append(max(range(K), key=lambda j: z[e, i, j]) == gold[i])
        mean = sum(probabilities) / E
        forgotten = sum(1 for before, after in itertools.pairwise(right) if before and not after)
        rows[int(ids[i])] = {
            "confidence": mean,
            "variability": math.sqrt(sum((p - mean) ** 2 for p in probabilities) / E),
            "correctness": sum(right),
            "forgetfulness": forgotten if any(right) else 1000,
            "threshold_closeness": mean * (1 - mean),
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


def test_cartographys_definitions_on_ten_instances_and_five_epochs(mcx: Callable, tmp_path: Path) -> None:
    found = made(mcx, tmp_path / "out", "--from", dynamics(tmp_path / "td"), "--export", "cartography")
    assert found["kept_epochs"] == [0, 1, 2, 3, 4]
    theirs, ours = loop_of_cartography(), table(tmp_path / "out", "cartography")
    assert {1000, 2} <= set(theirs["forgetfulness"]), "one is never learnt and one is forgotten twice"
    assert ours.index.tolist() == theirs.index.tolist()
    for name in ("confidence", "variability"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    np.testing.assert_allclose(ours["correctness"], theirs["correctness"] / E, atol=1e-7)
    never = theirs["forgetfulness"] == 1000
    assert np.isposinf(ours["forgetting"][never]).all()
    assert ours["forgetting"][~never].tolist() == theirs["forgetfulness"][~never].tolist()

    lines = pd.read_json(
        tmp_path / "out/td_metrics_cartography_run1_noise_0.jsonl", lines=True, orient="records"
    )
    written = lines.set_index("guid")
    for name in theirs:
        np.testing.assert_allclose(written[name], theirs[name], atol=1e-6, err_msg=name)


def test_losses_and_columns_of_logits_are_those_of_the_definitions(mcx: Callable, tmp_path: Path) -> None:
    z, gold, ids = (torch.from_numpy(each) for each in logits())
    made(mcx, tmp_path / "out", "--from", dynamics(tmp_path / "td"), "--el2n-epoch", 2)
    ours, order = table(tmp_path / "out", "cartography"), ids.argsort()
    p = z.double().softmax(2)
    losses = -p.gather(2, gold.expand(E, N)[..., None])[..., 0].log()
    errors = (p - torch.nn.functional.one_hot(gold, K)).norm(dim=2)
    np.testing.assert_allclose(ours["csl"], losses.sum(0)[order], rtol=1e-6)
    np.testing.assert_allclose(ours["final_loss"], losses[-1][order], rtol=1e-6)
    np.testing.assert_allclose(ours["el2n"], errors[2][order], rtol=1e-6)
    assert np.isinf(ours["first_learnt"]).sum() == np.isinf(ours["forgetting"]).sum() >= 1


def test_cleanlabs_probabilities_give_what_they_can_and_need_a_word_on_the_ids(
    mcx: Callable, tmp_path: Path
) -> None:
    z, gold, _ = logits()
    p = torch.from_numpy(z[-1]).double().softmax(1).numpy()
    np.save(tmp_path / "a.npy", gold)
    np.save(tmp_path / "b.npy", p)
    words = ("--from", f"{tmp_path / 'b.npy'},{tmp_path / 'a.npy'}")
    assert "--assume-index" in refused(mcx, tmp_path / "out", *words)
    found = made(mcx, tmp_path / "out", *words, "--assume-index")
    ours = table(tmp_path / "out", "cleanlab")
    np.testing.assert_allclose(ours["confidence"], p[np.arange(N), gold], atol=1e-6)
    np.testing.assert_allclose(ours["entropy"], -(p * np.log(p)).sum(1), atol=1e-6)
    np.testing.assert_allclose(ours["final_loss"], -np.log(p[np.arange(N), gold]), rtol=1e-5)
    assert "logits" in found["absent"]["aum"]
    assert "it takes 2 epochs" in found["absent"]["variability"]
    assert "it takes 2 epochs" in found["absent"]["forgetting"]


@pytest.mark.parametrize("key", ["memorization", "tr_mem"])
def test_published_memorization_is_read_under_either_name(mcx: Callable, tmp_path: Path, key: str) -> None:
    values = np.linspace(-0.1, 1, 6).astype(np.float32)
    np.savez(
        tmp_path / "a.npz", **{key: values, "influence": np.zeros((2, 6)), "tr_labels": np.zeros(6, int)}
    )
    words = ("--from", tmp_path / "a.npz")
    assert "ids" in refused(mcx, tmp_path / "out", *words)
    assert made(mcx, tmp_path / "out", *words, "--assume-index")["scores"] == ["memo_score"]
    assert (
        table(tmp_path / "out", "memorization")["memo_score"].to_numpy(np.float32).tolist() == values.tolist()
    )
    said = json.loads((tmp_path / "out/scores_memorization_run1_noise_0.json").read_text())
    assert [(each["name"], each["hard"]) for each in said["scores"]] == [("memo_score", "high")]


def test_metrics_of_its_scripts_are_converted_and_their_counts_left_out_where_nobody_says_of_how_many(
    mcx: Callable, tmp_path: Path
) -> None:
    row = {"index": 0, "threshold_closeness": 0.2, "confidence": 0.5, "variability": 0.1, "correctness": 3}
    rows = [{"guid": 4, **row, "forgetfulness": 1000}, {"guid": 2, **row, "forgetfulness": 2}]
    (tmp_path / "td.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    done = mcx("csl", "aggregate", "--from", tmp_path / "td.jsonl", "--output-dir", tmp_path / "out")
    assert done.code == 0
    assert "1000, never learnt, is inf" in done.err
    assert "correctness" in done.out
    assert "how many epochs" in done.out
    ours = table(tmp_path / "out", "cartography")
    assert list(ours) == ["confidence", "variability", "forgetting"]
    assert ours["forgetting"].tolist() == [2.0, math.inf]


# Ids -------------------------------------------------------------------------------------------------------


def test_names_of_instances_need_a_map_and_whole_numbers_in_quotes_do_not(
    mcx: Callable, tmp_path: Path
) -> None:
    names = [f"3416050480.jpg#{k}r1n" for k in range(N)]
    said = refused(mcx, tmp_path / "out", "--from", dynamics(tmp_path / "td", names))
    assert "3416050480.jpg#" in said
    assert "--id-map FILE" in said
    (tmp_path / "few.csv").write_text(
        "guid,sample_id\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names[:8]))
    )
    few = refused(mcx, tmp_path / "out", "--from", tmp_path / "td", "--id-map", tmp_path / "few.csv")
    assert "no sample for 2 ids, such as" in few
    _, _, ids = logits()
    rows = [f"{name},{number}\n" for name, number in zip(names, ids, strict=True)]
    (tmp_path / "map.csv").write_text("guid,sample_id\n" + "".join(rows))
    made(mcx, tmp_path / "named", "--from", tmp_path / "td", "--id-map", tmp_path / "map.csv")
    made(mcx, tmp_path / "spelled", "--from", dynamics(tmp_path / "strings", [str(k) for k in ids]))
    made(mcx, tmp_path / "plain", "--from", dynamics(tmp_path / "plain td"))
    for name in ("named", "spelled"):
        pd.testing.assert_frame_equal(
            table(tmp_path / name, "cartography"), table(tmp_path / "plain", "cartography")
        )
    (tmp_path / "twice.csv").write_text("guid,sample_id\n" + "".join(rows) + f"{names[0]},999\n")
    assert "guids twice" in refused(
        mcx, tmp_path / "out", "--from", tmp_path / "td", "--id-map", tmp_path / "twice.csv"
    )


def test_a_map_keeps_the_spelling_of_the_names_in_records(mcx: Callable, tmp_path: Path) -> None:
    whole = pd.read_csv(AUM / "full_aum_records.csv")
    expected = whole.groupby("sample_id")["margin"].mean().to_numpy()
    whole["sample_id"] = whole["sample_id"].map("{:04d}".format)  # 0007 is no 7 here
    whole.to_csv(tmp_path / "a.csv", index=False)
    ids = sorted(whole["sample_id"].unique())
    rows = "".join(f"{name},{100 + k}\n" for k, name in enumerate(ids))
    (tmp_path / "map.csv").write_text(f"guid,sample_id\n{rows}")
    made(mcx, tmp_path / "out", "--from", tmp_path / "a.csv", "--id-map", tmp_path / "map.csv")
    ours = table(tmp_path / "out", "aum")
    assert ours.index.tolist() == [100 + k for k in range(8)]
    np.testing.assert_allclose(ours["aum"], expected, atol=1e-6)


# What cannot be used ---------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def in_dynamics(epoch: int, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / f"dynamics_epoch_{epoch}.jsonl"
        path.write_text("".join(change(lines_of(path))))

    return apply


def with_record(number: int, **entries: object) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        lines[number] = json.dumps({**json.loads(lines[number]), **entries}) + "\n"
        return lines

    return change


BROKEN_DYNAMICS = {
    "a line that is cut off": (in_dynamics(2, lambda rows: [*rows[:-1], rows[-1][:20]]), ["epoch_2.jsonl', line 10"]),
    "a line of a list": (in_dynamics(1, lambda rows: [*rows, "[1]\n"]), ["epoch_1.jsonl', line 11, has no guid"]),
    "other classes": (
        in_dynamics(3, with_record(4, logits_epoch_3=[1, 2])), ["line 5, has 2 logits", "were 4 before"]),
    "logits that are text": (in_dynamics(0, with_record(4, logits_epoch_0=["1", 2, 3, 4])), ["line 5, has no list"]),
    "another epoch's logits": (
        in_dynamics(3, lambda rows: [rows[0], *(row.replace("epoch_3", "epoch_7") for row in rows[1:])]),
        ["epoch_3.jsonl', line 2, has no logits_epoch_3"]),
    "a label that is a name": (in_dynamics(0, with_record(2, gold="neutral")), ["line 3, has gold 'neutral'"]),
    "a label without a logit": (in_dynamics(0, with_record(2, gold=4)), ["line 3, has gold '4'"]),
    "an id twice": (in_dynamics(1, lambda rows: [*rows, rows[3]]), ["epoch_1.jsonl' names 1 samples twice"]),
    "an id that is missing": (
        in_dynamics(4, lambda rows: rows[1:]), ["epoch_4.jsonl' lacks 1 samples", "--end-epoch"]),
    "an id that is new": (in_dynamics(2, with_record(0, guid=777)), ["epoch_2.jsonl' lacks 1 samples"]),
    "another label": (
        in_dynamics(2, lambda rows: [json.dumps({**json.loads(row), "gold": 0}) + "\n" for row in rows]),
        ["epoch_2.jsonl' gives", "another label than the first epoch"]),
    "a gap": (lambda folder: (folder / "dynamics_epoch_2.jsonl").unlink(), ["of 1 epochs are missing: 2"]),
    "an empty file": (lambda folder: (folder / "dynamics_epoch_2.jsonl").write_text(""), ["is empty"]),
    "a number beyond every float": (
        in_dynamics(1, lambda rows: [rows[0].replace("[", "[1e999, "), *rows[1:]]), ["line 1", "beyond every float"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_DYNAMICS)
def test_dynamics_that_cannot_be_used_are_refused_with_file_and_line(
    mcx: Callable, tmp_path: Path, what: str
) -> None:
    change, said = BROKEN_DYNAMICS[what]
    change(dynamics(tmp_path / "td"))
    err = refused(mcx, tmp_path / "out", "--from", tmp_path / "td")
    for each in said:
        assert each in err


BROKEN_RECORDS = {
    "cut off in a line": (lambda rows: [*rows[:-1], rows[-1][:14]], ["ends within a line"]),
    "a measurement twice": (lambda rows: [*rows, rows[5]], ["line 34, is measurement 1 of sample 2 a second time"]),
    "a measurement missing": (
        lambda rows: [*rows[:4], *rows[5:]], ["no measurement 4 of 1 samples, such as 0", "--end-epoch 3"]),
    "another margin": (lambda rows: [*rows[:3], "0,3,0,1.0,1,2.0,5.0,0.1\n", *rows[4:]], ["line 4, has margin 5"]),
    "another class": (lambda rows: [*rows[:3], rows[3].replace("0,3,0,", "0,3,2,"), *rows[4:]], ["line 4, gives"]),
    "a name": (lambda rows: [*rows[:3], "cat.png" + rows[3][1:], *rows[4:]], ["--id-map"]),
    "no samples": (lambda rows: rows[:1], ["names no samples"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_RECORDS)
def test_records_that_cannot_be_used_are_refused_with_their_line(
    mcx: Callable, tmp_path: Path, what: str
) -> None:
    change, said = BROKEN_RECORDS[what]
    (tmp_path / "a.csv").write_text("".join(change(lines_of(AUM / "full_aum_records.csv"))))
    err = refused(mcx, tmp_path / "out", "--from", tmp_path / "a.csv")
    for each in said:
        assert each in err


def test_a_measurement_that_not_all_have_is_left_out_by_the_flag_of_the_hint(
    mcx: Callable, tmp_path: Path
) -> None:
    rows = lines_of(AUM / "full_aum_records.csv")
    (tmp_path / "a.csv").write_text("".join([*rows[:4], *rows[5:]]))
    made(mcx, tmp_path / "few", "--from", tmp_path / "a.csv", "--end-epoch", 3)
    made(mcx, tmp_path / "whole", "--from", AUM / "full_aum_records.csv", "--end-epoch", 3)
    pd.testing.assert_frame_equal(table(tmp_path / "few", "aum"), table(tmp_path / "whole", "aum"))


def test_a_gap_may_be_left_out_and_is_said(mcx: Callable, tmp_path: Path) -> None:
    (dynamics(tmp_path / "td") / "dynamics_epoch_2.jsonl").unlink()
    found = made(mcx, tmp_path / "out", "--from", tmp_path / "td", "--allow-missing")
    assert (found["kept_epochs"], found["missing_epochs"]) == ([0, 1, 3, 4], [2])


def test_arrays_of_cleanlab_that_do_not_fit_are_refused(mcx: Callable, tmp_path: Path) -> None:
    good, labels = np.full((6, 3), 1 / 3), np.arange(6) % 3

    def said(labels: np.ndarray, probs: np.ndarray, code: int = 3) -> str:
        np.save(tmp_path / "a.npy", labels)
        np.save(tmp_path / "b.npy", probs)
        words = ("--from", f"{tmp_path / 'a.npy'},{tmp_path / 'b.npy'}", "--assume-index")
        return refused(mcx, tmp_path / "out", *words, code=code)

    assert "holds 5 samples, " in said(labels[:5], good)
    assert "row 4, is 7, which is none of the 3 classes" in said(np.where(np.arange(6) == 4, 7, labels), good)
    assert "row 0, is no distribution" in said(labels, np.log(good))
    assert "row 5, is no distribution: its sum is 0.5" in said(labels, np.vstack([good[:5], [[0.5, 0, 0]]]))
    assert "together, got" in said(labels, labels, code=2)


class _Pickled:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("started",)


def test_python_objects_in_a_foreign_archive_are_never_loaded(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([_Pickled()], dtype=object)
    np.savez("a.npz", memorization=objects)
    np.savez("beside.npz", tr_mem=np.arange(3.0), tr_filenames=objects)
    np.save("b.npy", objects)
    assert "Python objects, which are never loaded" in refused(
        mcx, tmp_path / "out", "--from", "a.npz", "--assume-index"
    )
    assert "Python objects, which are never loaded" in refused(mcx, tmp_path / "out", "--from", "b.npy")
    made(mcx, tmp_path / "out", "--from", "beside.npz", "--assume-index")
    assert not Path("started").exists()


def test_what_is_none_of_the_known_files_and_files_of_several_kinds_are_refused(
    mcx: Callable, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("sample_id,loss\n1,2\n")
    err = refused(mcx, tmp_path / "out", "--from", tmp_path / "a.csv")
    assert "none of the files that are known: aum records, " in err
    assert "it holds: sample_id, loss" in err
    both = f"{AUM / 'aum_values.csv'},{AUM / 'full_aum_records.csv'}"
    assert "one kind at a time" in refused(mcx, tmp_path / "out", "--from", both, code=2)
    err = refused(mcx, tmp_path / "out", "--from", AUM / "aum_values.csv", "--loss-as-grad", code=2)
    assert "--loss-as-grad has no effect with --from" in err
    assert "has no effect" in refused(
        mcx, tmp_path / "out", tmp_path, "--from", AUM / "aum_values.csv", code=2
    )


@pytest.mark.parametrize("nothing", ["null", "NaN"])
def test_logits_that_are_no_numbers_stay_none_and_are_counted(
    mcx: Callable, tmp_path: Path, nothing: str
) -> None:
    path = dynamics(tmp_path / "td") / "dynamics_epoch_1.jsonl"
    rows = [json.loads(row) for row in lines_of(path)]
    rows[0]["logits_epoch_1"][2] = math.nan
    path.write_text("".join(json.dumps(row).replace("NaN", nothing) + "\n" for row in rows))
    done = mcx("csl", "aggregate", "--from", tmp_path / "td", "--output-dir", tmp_path / "out")
    assert (done.code, "epoch 1: 1 samples have a NaN" in done.err) == (0, True)
    broken = table(tmp_path / "out", "cartography").isna().any(axis=1)
    assert broken[broken].index.tolist() == [rows[0]["guid"]]


# What is written -------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """The arrays that `csl score` writes of these logits, with the table of the samples."""
    z, gold, ids = logits()
    folder, order = tmp_path / "scores", np.argsort(ids)
    folder.mkdir()
    labels = torch.from_numpy(gold[order])
    for e in range(E):
        logits_ = torch.from_numpy(z[e][order])
        losses = torch.nn.functional.cross_entropy(logits_.double(), labels, reduction="none")
        np.save(folder / f"loss_toy_run1_epoch_{e}_noise_0.npy", losses.float().numpy())
        columns = {k: v.float().numpy() for k, v in scores.of_logits(logits_, labels).items()}
        np.savez(folder / f"dynamics_toy_run1_epoch_{e}_noise_0.npz", **columns)
    np.save(folder / "sample_ids.npy", np.sort(ids))
    rows = "".join(f"{i},{y},,,fit\n" for i, y in zip(np.sort(ids), labels.tolist(), strict=True))
    (folder / "samples_toy_run1_noise_0.csv").write_text(f"sample_id,label,class_name,file,split\n{rows}")
    return folder


@pytest.mark.usefixtures("undrawn")
def test_what_is_exported_of_a_run_gives_the_same_scores_when_it_is_read(
    mcx: Callable, tmp_path: Path, scored: Path
) -> None:
    out = tmp_path / "out"
    made(mcx, out, "--input-dir", scored, "--export", "aum,cartography,cleanlab")
    ours = table(out, "toy")
    for name, stem, read in (
        ("aum", "full_aum_records_{}.csv", ["aum", "margin_last", "margin_min", "correctness", "share_wrong",
                                            "forgetting"]),
        ("aum", "aum_values_{}.csv", ["aum"]),
        ("cartography", "td_metrics_{}.jsonl", ["confidence", "variability", "correctness", "share_wrong",
                                                "forgetting"]),
    ):  # fmt: skip
        folder = tmp_path / stem
        found = made(mcx, folder, "--from", out / stem.format("toy_run1_noise_0"))
        assert set(read) <= set(found["scores"])
        pd.testing.assert_frame_equal(table(folder, name)[read], ours[read], rtol=1e-6)
    assert not list(out.glob("pred_probs*")), "the columns hold the label's probability alone"
    assert (
        np.load(out / "labels_toy_run1_noise_0.npy").tolist() == logits()[1][np.argsort(logits()[2])].tolist()
    )
    z, gold, ids = logits()
    p = torch.from_numpy(z[-1]).double().softmax(1).numpy()
    own = p[np.arange(N), gold]
    p[np.arange(N), gold] = -1
    quality = pd.read_csv(out / "label_quality_toy_run1_noise_0.csv").set_index("sample_id").loc[ids]
    np.testing.assert_allclose(quality["self_confidence"], own, atol=1e-6)
    np.testing.assert_allclose(quality["normalized_margin"], (own - p.max(1) + 1) / 2, atol=1e-6)


def test_dynamics_hold_all_probabilities_and_are_written_for_cleanlab_whole(
    mcx: Callable, tmp_path: Path
) -> None:
    z, _, ids = logits()
    out, name = tmp_path / "out", "cartography_run1_noise_0.npy"
    made(mcx, out, "--from", dynamics(tmp_path / "td"), "--export", "cleanlab")
    order = np.argsort(ids)
    expected = torch.from_numpy(z[-1]).double().softmax(1).numpy()[order]
    np.testing.assert_allclose(np.load(out / f"pred_probs_{name}"), expected, atol=1e-7)
    (tmp_path / "map.csv").write_text(
        "guid,sample_id\n" + "".join(f"{row},{i}\n" for row, i in enumerate(np.sort(ids)))
    )
    both = f"{out / f'labels_{name}'},{out / f'pred_probs_{name}'}"
    made(mcx, tmp_path / "back", "--from", both, "--id-map", tmp_path / "map.csv")
    read = ["final_loss", "entropy"]
    pd.testing.assert_frame_equal(
        table(tmp_path / "back", "cleanlab")[read], table(out, "cartography")[read], rtol=1e-5
    )


def test_memorization_goes_round(mcx: Callable, tmp_path: Path) -> None:
    (tmp_path / "memo.csv").write_text("sample_id,memo_score\n9,0.25\n3,1.0\n")
    made(mcx, tmp_path / "out", "--from", tmp_path / "memo.csv", "--export", "feldman")
    path = tmp_path / "out/memorization_memorization_run1_noise_0.npz"
    with np.load(path) as archive:
        assert (archive["tr_idx"].tolist(), archive["memorization"].tolist()) == ([3, 9], [1.0, 0.25])
    made(mcx, tmp_path / "back", "--from", path)
    pd.testing.assert_frame_equal(
        table(tmp_path / "back", "memorization"), table(tmp_path / "out", "memorization")
    )


@pytest.mark.usefixtures("undrawn")
def test_what_the_columns_do_not_hold_is_not_exported(mcx: Callable, tmp_path: Path, scored: Path) -> None:
    out = tmp_path / "out"
    err = refused(mcx, out, "--input-dir", scored, "--export", "feldman")
    assert "needs memorization scores, which are no score of one run" in err
    (scored / "samples_toy_run1_noise_0.csv").unlink()
    assert "needs the labels" in refused(mcx, out, "--input-dir", scored, "--export", "cleanlab")
    for path in scored.glob("dynamics_*"):
        path.unlink()
    err = refused(mcx, out, "--input-dir", scored, "--export", "aum")
    assert "needs label_logit, other_logit: not every epoch has a file dynamics_*.npz" in err
    err = refused(mcx, out, "--from", AUM / "full_aum_records.csv", "--export", "cartography")
    assert "needs label_prob: aum's records hold" in err
    one = dynamics(tmp_path / "td") / "dynamics_epoch_0.jsonl"
    err = refused(mcx, out, "--from", one, "--export", "cartography")
    assert "needs variability, forgetting: it takes 2 epochs, there are 1" in err


# The job ---------------------------------------------------------------------------------------------------


def test_a_finished_table_is_not_made_again_and_grows_by_what_is_exported(
    mcx: Callable, tmp_path: Path
) -> None:
    words = ("csl", "aggregate", "--from", dynamics(tmp_path / "td"), "--output-dir", tmp_path / "out")
    first = mcx(*words)
    again = mcx(*words)
    assert (again.code, "already complete" in again.err, again.out) == (0, True, first.out)
    grown = mcx(*words, "--export", "aum")
    assert (grown.code, "already complete" in grown.err) == (0, False)
    assert (tmp_path / "out/aum_values_cartography_run1_noise_0.csv").exists()
    (tmp_path / "out/scores_cartography_run1_noise_0.csv").unlink()
    mended = mcx(*words, "--export", "aum")
    assert (mended.code, "made again" in mended.err) == (0, True)
    assert (tmp_path / "out/scores_cartography_run1_noise_0.csv").exists()
    in_dynamics(2, with_record(0, gold=0, logits_epoch_2=[9, 9, 9, 9]))(tmp_path / "td")
    changed = mcx(*words, "--export", "aum")
    assert (changed.code, "is not the file the job began with" in changed.err) == (3, True)


def test_nothing_is_left_of_what_was_put_aside_on_disk(mcx: Callable, tmp_path: Path) -> None:
    made(mcx, tmp_path / "out", "--from", AUM / "full_aum_records.csv")
    private = [path.name for path in (tmp_path / "out/.mcx").rglob("*") if path.is_file()]
    assert not [name for name in private if name.startswith("tmp")]


@pytest.mark.usefixtures("undrawn")
def test_the_table_joins_what_flags_say_by_id(mcx: Callable, tmp_path: Path) -> None:
    made(mcx, tmp_path / "out", "--from", dynamics(tmp_path / "td"))
    ids = logits()[2]
    (tmp_path / "flags.csv").write_text(
        "sample_id,odd\n" + "".join(f"{i},{k % 2}\n" for k, i in enumerate(ids))
    )
    scores_ = tmp_path / "out/scores_cartography_run1_noise_0.csv"
    done = mcx(
        "correlate", "--with", scores_, "--flags", tmp_path / "flags.csv", "--output-dir", tmp_path / "joined"
    )
    assert done.code == 0, done.err
    joined = pd.read_csv(tmp_path / "joined/per_sample.csv").set_index("sample_id")
    np.testing.assert_allclose(joined["aum"], table(tmp_path / "out", "cartography")["aum"], rtol=1e-6)


def test_no_file_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cartography, "ROWS", 64)
    rows, classes = 1000, 100
    line = json.dumps({"guid": 0, "logits_epoch_0": [0.123456789] * classes, "gold": 1})
    text = "".join(line.replace('"guid": 0', f'"guid": {k}') + "\n" for k in range(rows))
    (tmp_path / "0.jsonl").write_text(text)
    kind, looks = foreign.recognised([tmp_path / "0.jsonl"])
    told = foreign.Told(CslAggregateSettings(checked=True), Runtime(), tmp_path, None)
    tracemalloc.start()
    source = kind.read(looks, told)
    (columns,) = source.columns(["label_prob"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert columns["label_prob"][7] == pytest.approx(1 / classes, rel=1e-6)
    assert peak < len(text) / 3, "some lines at a time, and seven columns"


# Parquet ---------------------------------------------------------------------------------------------------


def test_parquet_beside_the_table_holds_the_same(mcx: Callable, tmp_path: Path, monkeypatch) -> None:
    words = ("--from", AUM / "full_aum_records.csv")
    made(mcx, tmp_path / "out", *words)
    stem = tmp_path / "out/scores_aum_run1_noise_0"
    found = pd.read_parquet(f"{stem}.parquet")
    assert (found["sample_id"].dtype, found["aum"].dtype) == (np.int64, np.float32)
    pd.testing.assert_frame_equal(
        found.set_index("sample_id").astype(float),
        table(tmp_path / "out", "aum"),
        check_dtype=False,
        rtol=1e-6,
    )
    monkeypatch.setattr(parquet, "available", lambda: False)
    made(mcx, tmp_path / "out", *words, "--no-resume", "--overwrite")
    assert [path.suffix for path in sorted(tmp_path.glob("out/scores_*"))] == [".csv", ".json"]


def test_a_full_disk_is_said_of_parquet_as_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written.write

    def full(self: Written, data: object) -> int:
        if len(data) > 100:  # type: ignore[arg-type]
            self.refusal = OSError(28, "No space left on device")
            raise self.refusal
        return written(self, data)

    monkeypatch.setattr(Written, "write", full)
    table_ = pd.DataFrame({"a": np.random.default_rng(0).random(5000)})
    with pytest.raises(OutputError, match="no space left"):
        parquet.write(tmp_path / "a.parquet", lambda: [table_])
    assert not list(tmp_path.iterdir())
