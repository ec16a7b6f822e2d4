"""`mcx correlate`: the join, the statistics and the files against pandas and scipy; what cannot be joined."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from modeconn_cli.cli import app

COUNT = 60
OWNED = {
    "per_sample.csv", "correlations.csv", "by_class.csv", "by_task.csv", "by_class_and_task.csv", "auroc.csv",
    "scatter.png", "groups.png", "tasks.png", "evolution.csv", "evolution.png", "correlate_summary.json",
}  # fmt: skip


def write_sources(folder: Path, order: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """Every kind of source, of the same samples, each in an order of its own; the true columns by id."""
    generator = np.random.default_rng(0)
    ids = np.sort(generator.choice(1000, COUNT, replace=False))
    columns = {
        name: generator.standard_normal(COUNT).astype(np.float32)
        for name in ("csl", "lt", "curvature", "directional_eig", "dormant_prop", "dormant_post")
    }
    columns["csl"][:2] = np.nan, np.inf
    columns["memo_score"] = np.where(np.arange(COUNT) % 7 == 0, np.nan, np.round(generator.random(COUNT), 4))
    columns["extra"] = generator.standard_normal(COUNT)
    columns |= {"class_id": ids % 4, "flipped": (generator.random(COUNT) < 0.3).astype(int)}
    columns["task_num"] = columns["class_id"] // 2
    shuffle = np.random.default_rng(1) if order is None else order

    def save(place: str, ids_name: str, **arrays: np.ndarray) -> None:
        (folder / place).mkdir(parents=True, exist_ok=True)
        rows = shuffle.permutation(COUNT)
        np.save(folder / place / ids_name, ids[rows])
        for name, array in arrays.items():
            np.save(folder / place / f"{name}.npy", array[rows])

    save("csl", "sample_ids.npy", csl_d_run1_noise_0=columns["csl"], lt_d_run1_noise_0=columns["lt"])
    save(
        "cv", "sample_ids.npy", per_image_curvature=columns["curvature"],
        per_image_directional_eig=columns["directional_eig"], per_image_labels=columns["class_id"],
    )  # fmt: skip
    for epoch, shift in ((0, 1), (200, 0)):
        arrays = {
            f"dormant_props_epoch_{epoch}": columns["dormant_prop"] + np.float32(shift),
            f"dormant_post_epoch_{epoch}": columns["dormant_post"] + np.float32(shift),
            f"labels_epoch_{epoch}": columns["class_id"],
        }
        save("dormant", f"sample_ids_epoch_{epoch}.npy", **arrays)
    epochs = np.repeat(np.arange(3), COUNT)
    rows = shuffle.permutation(3 * COUNT)
    tracking = pd.DataFrame(
        {
            "sample_id": np.tile(ids, 3),
            "memo_score": np.tile(columns["memo_score"], 3),
            "true_label": np.tile(columns["class_id"], 3),
            "class_id": np.tile(columns["class_id"], 3),
            "epoch_num": epochs + 10 * np.tile(columns["task_num"], 3),
            "batch_num": 0,
            "task_num": np.tile(columns["task_num"], 3),
        }
    )
    tracking.iloc[rows].to_csv(folder / "tracking.csv", index=False)
    some = shuffle.permutation(COUNT)
    pd.DataFrame({"sample_id": ids, "extra": columns["extra"]}).iloc[some].to_csv(
        folder / "extra.csv", index=False
    )
    flags = {"sample_id": ids, "clean": 1, "trained": 0, "flipped": columns["flipped"]}
    pd.DataFrame(flags).iloc[some].to_csv(folder / "flags.csv", index=False)
    return {"sample_id": ids, **columns}


def words(folder: Path, *more: object) -> list[object]:
    return [
        "correlate", "--tracking", folder / "tracking.csv", "--csl", folder / "csl", "--curvature", folder / "cv",
        "--dormant", folder / "dormant", "--with", folder / "extra.csv", "--flags", folder / "flags.csv",
        "--output-dir", folder / "out", *more,
    ]  # fmt: skip


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, np.ndarray]:
    return write_sources(tmp_path)


@pytest.fixture
def joined(mcx: Callable, tmp_path: Path, truth: dict[str, np.ndarray], undrawn: None) -> dict:
    """The JSON of a run over every kind of source."""
    done = mcx(*words(tmp_path, "--json"))
    assert done.code == 0, done.err
    return json.loads(done.out)


METRICS = ["memo_score", "csl", "lt", "curvature", "directional_eig", "dormant_prop", "dormant_post", "extra"]


def merged(folder: Path) -> pd.DataFrame:
    """The document's merge, by the ids of each file instead of its positions."""

    def frame(place: str, ids: str = "sample_ids.npy", **names: str) -> pd.DataFrame:
        arrays = {column: np.load(folder / place / f"{file}.npy") for column, file in names.items()}
        return pd.DataFrame({"sample_id": np.load(folder / place / ids), **arrays})

    tracking = pd.read_csv(folder / "tracking.csv")
    one = tracking.groupby("sample_id", as_index=False).agg(
        memo_score=("memo_score", "first"), class_id=("class_id", "first"), task_num=("task_num", "min"),
        first_epoch=("epoch_num", "min"), last_epoch=("epoch_num", "max"), times_seen=("epoch_num", "size"),
    )  # fmt: skip
    cv = {"curvature": "per_image_curvature", "directional_eig": "per_image_directional_eig"}
    return (
        one.merge(frame("csl", csl="csl_d_run1_noise_0", lt="lt_d_run1_noise_0"), on="sample_id")
        .merge(frame("cv", **cv), on="sample_id")
        .merge(
            frame(
                "dormant", "sample_ids_epoch_200.npy",
                dormant_prop="dormant_props_epoch_200", dormant_post="dormant_post_epoch_200",
            ),
            on="sample_id",
        )
        .merge(pd.read_csv(folder / "extra.csv"), on="sample_id")
        .merge(pd.read_csv(folder / "flags.csv")[["sample_id", "flipped"]], on="sample_id")
    )  # fmt: skip


def test_the_table_is_the_documents_merge(tmp_path: Path, joined: dict) -> None:
    found, expected = pd.read_csv(tmp_path / "out/per_sample.csv"), merged(tmp_path)
    assert list(found) == [
        "sample_id", "split", "class_id", "task_num", "memo_score", "csl", "lt", "curvature", "directional_eig",
        "dormant_prop", "dormant_post", "first_epoch", "last_epoch", "times_seen", "category", "extra", "flipped",
    ]  # fmt: skip
    assert set(found["split"]) == {"train"}
    for name in expected:
        values = found[name].to_numpy(expected[name].dtype)
        assert np.array_equal(values, expected[name], equal_nan=values.dtype.kind == "f"), name
    assert joined["samples"] == COUNT
    assert joined["dormant_epoch"] == 200
    assert {path.name for path in (tmp_path / "out").iterdir()} == OWNED | {".mcx"}
    assert {Path(path).name for path in joined["files"]} == OWNED


def test_correlations_are_scipys_of_the_pairwise_complete_samples(tmp_path: Path, joined: dict) -> None:
    frame = merged(tmp_path)[METRICS].astype(float).replace([np.inf, -np.inf], np.nan)
    rows = pd.read_csv(tmp_path / "out/correlations.csv")
    assert len(rows) == 8 * 7 // 2
    for row in rows.itertuples():
        pair = frame[[row.metric_a, row.metric_b]].dropna()
        pearson, spearman = stats.pearsonr(*pair.to_numpy().T), stats.spearmanr(*pair.to_numpy().T)
        assert row.n == len(pair)
        assert (row.pearson, row.spearman) == pytest.approx((pearson.statistic, spearman.statistic), abs=1e-9)
        assert (row.pearson_p, row.spearman_p) == pytest.approx((pearson.pvalue, spearman.pvalue), rel=1e-6)
    assert [c["n"] for c in joined["correlations"]] == rows["n"].tolist()


def test_groups_are_those_of_the_documents_groupby(tmp_path: Path, joined: dict) -> None:
    frame = merged(tmp_path).replace([np.inf, -np.inf], np.nan)
    frame[METRICS] = frame[METRICS].astype(float)
    for file, keys in (
        ("by_class.csv", ["class_id"]),
        ("by_task.csv", ["task_num"]),
        ("by_class_and_task.csv", ["class_id", "task_num"]),
    ):
        expected = frame.groupby(keys).agg({name: ["mean", "std", "count"] for name in METRICS})
        found = pd.read_csv(tmp_path / "out" / file).set_index(keys)
        assert found.index.tolist() == expected.index.tolist()
        assert found["n"].tolist() == frame.groupby(keys).size().tolist()
        for name in METRICS:
            for ours, theirs in (("mean", "mean"), ("sd", "std"), ("n", "count")):
                np.testing.assert_allclose(found[f"{name}_{ours}"], expected[name, theirs], rtol=1e-6)


def test_auroc_is_the_share_of_pairs_in_the_right_order(tmp_path: Path, joined: dict) -> None:
    frame = merged(tmp_path)
    for row in pd.read_csv(tmp_path / "out/auroc.csv").itertuples():
        values = frame[[row.metric, "flipped"]].dropna().to_numpy(float)
        positive, negative = values[values[:, 1] == 1, 0], values[values[:, 1] == 0, 0]
        wins = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
        assert row.flag == "flipped", "clean and trained are labels"
        assert (row.n, row.flagged) == (len(values), len(positive))
        assert row.auroc == pytest.approx(wins)
        at_least = values[:, 0] >= positive[:, None]  # of every flagged sample, those that come no later
        precision = (at_least & (values[:, 1] == 1)).sum(1) / at_least.sum(1)
        assert row.average_precision == pytest.approx(precision.mean())


def test_categories_are_median_splits(tmp_path: Path, joined: dict) -> None:
    found, frame = pd.read_csv(tmp_path / "out/per_sample.csv"), merged(tmp_path)
    parts = ["csl", "curvature", "dormant_prop", "memo_score"]
    medians = frame[parts].astype(float).replace([np.inf, -np.inf], np.nan).median()
    documented = {
        (1, 1, 1, 1): "Most problematic samples", (1, 0, 0, 1): "Difficult but stable samples",
        (0, 1, 1, 0): "Easy but plasticity-impaired samples", (0, 0, 0, 0): "Ideal samples for training",
    }  # fmt: skip
    for category, (_, row) in zip(found["category"], frame.iterrows(), strict=True):
        if row[parts].isna().any():
            assert pd.isna(category)
            continue
        high = tuple(int(row[part] > medians[part]) for part in parts)
        named = zip(high, ("csl", "curvature", "dormant", "memo"), strict=True)
        spelled = ", ".join(f"{'high' if level else 'low'} {word}" for level, word in named)
        assert category == documented.get(high, spelled)
    counts = found["category"].fillna("").value_counts().to_dict()
    assert joined["categories"] == counts


def test_the_evolution_follows_every_epoch(tmp_path: Path, joined: dict) -> None:
    flags = pd.read_csv(tmp_path / "flags.csv").set_index("sample_id")["flipped"]
    rows = [row for row in joined["evolution"] if row["task"] is None]
    assert [(row["epoch"], row["metric"]) for row in rows] == [
        (epoch, metric) for epoch in (0, 200) for metric in ("dormant_prop", "dormant_post")
    ]
    for row in rows:
        file = {"dormant_prop": "dormant_props", "dormant_post": "dormant_post"}[row["metric"]]
        values = np.load(tmp_path / f"dormant/{file}_epoch_{row['epoch']}.npy").astype(float)
        flagged = flags.loc[np.load(tmp_path / f"dormant/sample_ids_epoch_{row['epoch']}.npy")].to_numpy()
        assert row["statistics"]["mean"] == pytest.approx(values.mean())
        assert row["flagged_mean"] == pytest.approx(values[flagged == 1].mean())
        assert row["unflagged_mean"] == pytest.approx(values[flagged == 0].mean())
        for share in (5, 25, 50, 75, 95):
            assert row["statistics"][f"q{share}"] == pytest.approx(np.quantile(values, share / 100))


def test_the_evolution_follows_every_task(tmp_path: Path, joined: dict) -> None:
    truth = pd.read_csv(tmp_path / "out/per_sample.csv").set_index("sample_id")
    table = pd.read_csv(tmp_path / "out/evolution.csv")
    assert len(table) == len(joined["evolution"]) == 2 * 2 * 3  # epochs, metrics, all and two tasks
    for row in table[table["task_num"].notna()].itertuples():
        file = {"dormant_prop": "dormant_props", "dormant_post": "dormant_post"}[row.metric]
        values = np.load(tmp_path / f"dormant/{file}_epoch_{row.epoch}.npy").astype(float)
        tasks = truth.loc[
            np.load(tmp_path / f"dormant/sample_ids_epoch_{row.epoch}.npy"), "task_num"
        ].to_numpy()
        own = values[tasks == row.task_num]
        assert (row.samples, row.mean) == (len(own), pytest.approx(own.mean()))
        assert row.q75 == pytest.approx(np.quantile(own, 0.75))


def test_tasks_have_their_exposures_and_the_quantiles_of_every_metric(tmp_path: Path, joined: dict) -> None:
    truth = pd.read_csv(tmp_path / "out/per_sample.csv")
    table = pd.read_csv(tmp_path / "out/by_task.csv")
    assert [task["task"] for task in joined["tasks"]] == table["task_num"].tolist() == [0, 1]
    for task, row in zip(joined["tasks"], table.itertuples(), strict=True):
        own = truth[truth["task_num"] == task["task"]]
        assert task["samples"] == row.n == len(own)
        assert task["first_epoch"] == row.first_epoch == own["first_epoch"].min()
        assert task["last_epoch"] == row.last_epoch == own["last_epoch"].max()
        assert task["times_seen"] == row.times_seen_mean == pytest.approx(own["times_seen"].mean())
        for name in joined["metrics"]:
            values = own[name["name"]].replace([np.inf, -np.inf], np.nan).dropna()
            assert task["metrics"][name["name"]]["q25"] == pytest.approx(values.quantile(0.25))


def test_without_tasks_there_is_no_figure_of_tasks(mcx: Callable, tmp_path: Path, truth, undrawn) -> None:
    done = mcx(
        "correlate", "--csl", tmp_path / "csl", "--dormant", tmp_path / "dormant", "--output-dir", tmp_path / "plain",
        "--json",
    )  # fmt: skip
    found = json.loads(done.out)
    assert (done.code, found["tasks"]) == (0, [])
    assert {row["task"] for row in found["evolution"]} == {None}
    assert not (tmp_path / "plain/tasks.png").exists()


def test_samples_without_a_flag_are_neither(mcx: Callable, tmp_path: Path, truth, undrawn) -> None:
    flags = pd.read_csv(tmp_path / "flags.csv").iloc[: COUNT // 2]
    flags.to_csv(tmp_path / "flags.csv", index=False)
    done = mcx(*words(tmp_path, "--how", "outer", "--json"))
    assert done.code == 0, done.err
    last = next(
        row
        for row in json.loads(done.out)["evolution"][::-1]
        if row["task"] is None and row["metric"] == "dormant_prop"
    )
    values = pd.Series(truth["dormant_prop"].astype(float), index=truth["sample_id"]).loc[flags["sample_id"]]
    marks = flags["flipped"].to_numpy()
    assert (last["epoch"], last["metric"], last["samples"]) == (200, "dormant_prop", COUNT)
    assert last["flagged_mean"] == pytest.approx(values[marks == 1].mean())
    assert last["unflagged_mean"] == pytest.approx(values[marks == 0].mean())
    assert pd.read_csv(tmp_path / "out/per_sample.csv")["flipped"].count() == COUNT // 2


def test_the_printed_tables_name_sources_pairs_categories_and_files(
    mcx: Callable, tmp_path: Path, truth
) -> None:
    done = mcx(*words(tmp_path))
    assert done.code == 0, done.err
    assert f"{COUNT} samples of the train split" in done.out
    assert "Finding the flagged samples" in done.out
    assert "Categories by median splits" in done.out
    assert f"wrote {tmp_path / 'out/per_sample.csv'}" in done.err.splitlines()
    for name in ("scatter", "groups", "tasks", "evolution"):
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "dormancy of epoch 200 is joined, the last of 2" in done.err
    assert "csl: 1 infinite values" in done.err


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(2, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(tmp_path: Path, undrawn: None, joined: dict, seed: int) -> None:
    other = tmp_path / "other"
    shutil.rmtree(other, ignore_errors=True)
    write_sources(other, np.random.default_rng(seed))
    assert app.main([str(word) for word in words(other, "-q")]) == 0
    for path in (tmp_path / "out").glob("*.csv"):
        assert (other / "out" / path.name).read_bytes() == path.read_bytes()


# Again -----------------------------------------------------------------------------------------------------


def test_a_finished_job_is_not_done_again_and_changed_inputs_are(
    mcx: Callable, tmp_path: Path, joined: dict
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.is_file()}
    done = mcx(*words(tmp_path, "--json"))
    assert (done.code, json.loads(done.out)) == (0, joined)
    assert "already complete" in done.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    path = tmp_path / "csl/csl_d_run1_noise_0.npy"
    np.save(path, np.load(path) * 2)
    os.utime(path, ns=(0, 0))
    assert mcx(*words(tmp_path)).code == 0
    found = pd.read_csv(tmp_path / "out/per_sample.csv")["csl"].to_numpy(np.float32)
    assert np.array_equal(found, merged_csl(tmp_path), equal_nan=True)
    frame = pd.read_csv(tmp_path / "tracking.csv")
    frame.drop(columns="task_num").to_csv(tmp_path / "tracking.csv", index=False)
    done = mcx(*words(tmp_path))
    assert (done.code, "tracking.csv' is not the file the job began with" in done.err) == (3, True)


def merged_csl(folder: Path) -> np.ndarray:
    order = np.argsort(np.load(folder / "csl/sample_ids.npy"))
    return np.load(folder / "csl/csl_d_run1_noise_0.npy")[order]


def test_a_lost_file_is_made_again(mcx: Callable, tmp_path: Path, joined: dict) -> None:
    content = (tmp_path / "out/correlations.csv").read_bytes()
    (tmp_path / "out/correlations.csv").unlink()
    assert mcx(*words(tmp_path)).code == 0
    assert (tmp_path / "out/correlations.csv").read_bytes() == content


def test_other_settings_and_foreign_results_are_refused(mcx: Callable, tmp_path: Path, joined: dict) -> None:
    done = mcx(*words(tmp_path, "--how", "inner"))
    assert (done.code, "'how' was None, now inner" in done.err) == (3, True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/per_sample.csv").write_text("mine")
    done = mcx(*words(tmp_path)[:-1], tmp_path / "other")
    assert (done.code, (tmp_path / "other/per_sample.csv").read_text()) == (5, "mine")


def test_an_input_is_never_replaced(mcx: Callable, tmp_path: Path, joined: dict) -> None:
    source = tmp_path / "out/per_sample.csv"
    content = source.read_bytes()
    done = mcx("correlate", "--with", source, "--output-dir", tmp_path / "out", "--no-resume", "--overwrite")
    assert (done.code, source.read_bytes() == content) == (5, True)


def test_a_dry_run_writes_nothing(mcx: Callable, tmp_path: Path, truth) -> None:
    done = mcx(*words(tmp_path, "--dry-run"))
    assert (done.code, done.out, (tmp_path / "out").exists()) == (0, "", False)


# What a single source can be -------------------------------------------------------------------------------


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "out/per_sample.csv")


def test_k4_positions_are_ids_only_where_that_is_asked_for(mcx: Callable, tmp_path: Path) -> None:
    np.save(tmp_path / "csl_x_run1_noise_0.npy", np.arange(4, dtype=np.float32))
    np.save(tmp_path / "lt_x_run1_noise_0.npy", np.arange(4, dtype=np.float32)[:, None])
    ask = ("correlate", "--csl", tmp_path, "--output-dir", tmp_path / "out")
    done = mcx(*ask)
    assert (done.code, "--assume-index" in done.err, (tmp_path / "out").exists()) == (3, True, False)
    done = mcx(*ask, "--assume-index", "--json")
    assert done.code == 0
    assert json.loads(done.out)["assumed_index"] == ["csl", "lt"]
    assert table(tmp_path)["sample_id"].tolist() == [0, 1, 2, 3]
    assert table(tmp_path)["lt"].tolist() == [0, 1, 2, 3]
    np.save(tmp_path / "lt_x_run1_noise_0.npy", np.arange(5, dtype=np.float32))
    done = mcx(*ask, "--assume-index", "--how", "outer", "--output-dir", tmp_path / "out2")
    assert (done.code, "must be equally long" in done.err) == (3, True)


@pytest.mark.parametrize(
    "content",
    [
        "sample_id,memo_score,other\n7,0.5,1\n3,,2\n",
        "id,score\n7.0,0.5\n3,\n",
        'index,name,score\n"7",x,0.5\n"3",y,\n',
        "sample_id,score\n7,5e-1\n 3,nan\n",
    ],
)
def test_memorization_tables_of_any_spelling(mcx: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "memo.csv").write_text(content)
    done = mcx("correlate", "--memo", tmp_path / "memo.csv", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out/per_sample.csv").read_text().splitlines() == [
        "sample_id,split,memo_score,category", "3,,,", "7,,0.5,low memo"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "names", [("ids", "memorization"), ("tr_idx", "scores"), ("sample_ids", "memo_score")]
)
def test_memorization_archives_of_any_spelling(mcx: Callable, tmp_path: Path, names: tuple[str, str]) -> None:
    arrays = {names[0]: np.array([5.0, 2]), names[1]: np.float32([0.1, 0.2]), "infl": np.zeros((2, 3))}
    np.savez(tmp_path / "memo.npz", **arrays)
    done = mcx("correlate", "--memo", tmp_path / "memo.npz", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert table(tmp_path)["sample_id"].tolist() == [2, 5]
    assert np.array_equal(table(tmp_path)["memo_score"].to_numpy(np.float32), np.float32([0.2, 0.1]))


def test_memo_wins_over_the_tracking_file(mcx: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "sample_id,memo_score,class_id,epoch_num,task_num\n1,0.25,3,0,0\n2,0.5,4,0,0\n"
    )
    (tmp_path / "m.csv").write_text("sample_id,memo_score\n1,0.75\n2,\n")
    done = mcx(
        "correlate",
        "--tracking",
        tmp_path / "t.csv",
        "--memo",
        tmp_path / "m.csv",
        "--output-dir",
        tmp_path / "out",
    )
    assert (done.code, "memo_score is taken from --memo" in done.err) == (0, True)
    assert table(tmp_path)["memo_score"].tolist() == pytest.approx([0.75, np.nan], nan_ok=True)


def test_further_files_keep_names_apart(mcx: Callable, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(
            f"sample_id,loss,csl,word,=sum\n1,1,2,{name},3\n2,4,5,{name},6\n"
        )
    np.save(tmp_path / "more.npy", np.array([[1], [2]], dtype=np.int32))
    np.save(tmp_path / "sample_ids.npy", np.array(["2", "1"]))
    files = ",".join(str(tmp_path / name) for name in ("a.csv", "b.csv", "more.npy"))
    done = mcx("correlate", "--with", files, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert "as they are not numbers: word" in done.err
    assert list(table(tmp_path))[2:] == ["loss", "a_csl", "'=sum", "b_loss", "b_csl", "b_=sum", "more"]
    assert table(tmp_path)["more"].tolist() == [2, 1]
    pairs = pd.read_csv(tmp_path / "out/correlations.csv")
    assert "'=sum" in set(pairs["metric_a"]) | set(pairs["metric_b"])


def test_the_table_of_mcx_curvature_is_read(mcx: Callable, tmp_path: Path) -> None:
    (tmp_path / "curvature_results_d_4.csv").write_text(
        "sample_id,label,curvature,directional_eig,hvp_norm\n4,1,0.5,-1,9\n2,0,0.25,1,9\n"
    )
    done = mcx("correlate", "--curvature", tmp_path, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert table(tmp_path)[["sample_id", "class_id", "curvature", "directional_eig"]].to_numpy().tolist() == [
        [2, 0, 0.25, 1], [4, 1, 0.5, -1]
    ]  # fmt: skip


# Samples that differ ---------------------------------------------------------------------------------------


@pytest.fixture
def overlapping(tmp_path: Path) -> list[object]:
    """csl of 1 … 4, curvature of 3 … 8; class of 3 and 4 in both the curvature and the tracking file."""
    for place, ids, name in (
        ("csl", np.arange(1, 5), "csl_x_run1_noise_0"), ("cv", np.arange(3, 9), "per_image_curvature")
    ):  # fmt: skip
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "sample_ids.npy", ids)
        np.save(tmp_path / place / f"{name}.npy", ids.astype(np.float32))
    np.save(tmp_path / "cv/per_image_labels.npy", np.arange(3, 9) % 2)
    return [
        "correlate",
        "--csl",
        tmp_path / "csl",
        "--curvature",
        tmp_path / "cv",
        "--output-dir",
        tmp_path / "out",
    ]


def test_i7_different_samples_are_refused_with_counts(mcx: Callable, tmp_path: Path, overlapping) -> None:
    done = mcx(*overlapping)
    assert (done.code, done.out) == (3, "")
    assert "csl 4 (2 in all, 2 only here); curvature 6 (2 in all, 4 only here)" in done.err
    assert "--how inner" in done.err
    assert not (tmp_path / "out").exists(), "the same command with --how must not find another job"


@pytest.mark.parametrize(("how", "ids"), [("inner", [3, 4]), ("outer", [1, 2, 3, 4, 5, 6, 7, 8])])
def test_i7_how_joins_them_and_says_what_was_covered(
    mcx: Callable, tmp_path: Path, overlapping, how: str, ids: list[int]
) -> None:
    done = mcx(*overlapping, "--how", how, "--json")
    assert done.code == 0, done.err
    found, frames = table(tmp_path), [pd.DataFrame({"sample_id": np.arange(1, 5)})]
    frames[0]["csl"] = frames[0]["sample_id"].astype(float)
    other = pd.DataFrame({"sample_id": np.arange(3, 9), "class_id": np.arange(3, 9) % 2})
    other["curvature"] = other["sample_id"].astype(float)
    expected = frames[0].merge(other, on="sample_id", how=how).sort_values("sample_id")
    assert found["sample_id"].tolist() == ids
    for name in ("class_id", "csl", "curvature"):
        assert np.array_equal(found[name], expected[name], equal_nan=True)
    coverage = [
        [c[k] for k in ("source", "samples", "in_all", "only_here")] for c in json.loads(done.out)["sources"]
    ]
    assert coverage == [["csl", 4, 2, 2], ["curvature", 6, 2, 4]]


def test_two_classes_of_one_sample_are_refused(mcx: Callable, tmp_path: Path, overlapping) -> None:
    (tmp_path / "t.csv").write_text(
        "sample_id,class_id\n" + "".join(f"{k},{k % 2 + (k == 7)}\n" for k in range(1, 9))
    )
    done = mcx(*overlapping, "--how", "outer", "--tracking", tmp_path / "t.csv")
    assert (done.code, done.out) == (3, "")
    assert "sample 7 is of class 2 in tracking and of class 1 in curvature (1 samples)" in done.err


def test_i7_no_common_sample_is_refused(mcx: Callable, tmp_path: Path, overlapping) -> None:
    np.save(tmp_path / "csl/sample_ids.npy", np.arange(100, 104))
    done = mcx(*overlapping, "--how", "inner")
    assert (done.code, "no sample is in all sources" in done.err) == (3, True)


def test_training_and_test_samples_are_never_mixed(mcx: Callable, tmp_path: Path, overlapping) -> None:
    (tmp_path / "cv/curvature_summary_x.json").write_text('{"split": "fit"}')
    (tmp_path / "csl/.mcx/csl-aggregate").mkdir(parents=True)
    record = {"settings": {"input_dir": str(tmp_path / "scores")}}
    (tmp_path / "csl/.mcx/csl-aggregate/record.json").write_text(json.dumps(record))
    (tmp_path / "csl/.mcx/csl-aggregate/manifest.json").write_text("{}")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/csl_score_x.json").write_text('{"split": "test"}')
    done = mcx(*overlapping, "--how", "inner")
    assert (done.code, "samples of different splits" in done.err) == (3, True)
    (tmp_path / "scores/csl_score_x.json").write_text('{"split": "all-train"}')
    assert mcx(*overlapping, "--how", "inner").code == 0
    assert set(table(tmp_path)["split"]) == {"train"}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, 2, 2, 2]), "2 duplicate sample ids: the first is 2"),
        (np.array([1, -2, 3, -4]), "2 negative sample ids: the first is -2"),
        (np.array([1.5, 2, 3, 4]), "1 sample ids that are not whole numbers: the first is '1.5'"),
        (np.array([np.nan, 2, 3, 4]), "1 sample ids that are not whole numbers"),
        (np.array(["1", "2", "x", "4"]), "1 sample ids that are not whole numbers: the first is 'x'"),
        (np.array([True, False, True, True]), "expected"),
        (np.array([{}, 1, 2, 3], dtype=object), "Python objects"),
        (np.arange(5), "names 5 samples"),
        (np.zeros((2, 2), dtype=int), "expected"),
    ],
    ids=str,
)  # fmt: skip
def test_i7_ids_that_are_none_are_refused(
    mcx: Callable, tmp_path: Path, ids: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "csl_x.npy", np.zeros(4, dtype=np.float32))
    np.save(tmp_path / "sample_ids.npy", ids)
    done = mcx("correlate", "--csl", tmp_path / "csl_x.npy", "--output-dir", tmp_path / "out")
    assert (done.code, done.out, message in done.err) == (3, "", True), done.err


@pytest.mark.parametrize(
    "ids", [np.array(["7", "3"]), np.array([b"7", b"3"]), np.array([7.0, 3]), np.uint8([7, 3])]
)
def test_i7_ids_of_any_type_are_the_same(mcx: Callable, tmp_path: Path, ids: np.ndarray) -> None:
    np.save(tmp_path / "csl_x.npy", np.float32([1, 2]))
    np.save(tmp_path / "sample_ids.npy", ids)
    (tmp_path / "memo.csv").write_text('sample_id,m\n"3",0.5\n7.0,0.25\n')
    done = mcx(
        "correlate",
        "--csl",
        tmp_path / "csl_x.npy",
        "--memo",
        tmp_path / "memo.csv",
        "--output-dir",
        tmp_path / "out",
    )
    assert done.code == 0, done.err
    assert table(tmp_path)[["sample_id", "memo_score", "csl"]].to_numpy().tolist() == [
        [3, 0.5, 2],
        [7, 0.25, 1],
    ]


# Names of classes ------------------------------------------------------------------------------------------

NAMES = {0: '=HYPERLINK("http://x","y")', 1: 'a,b "c"\nd', 2: "plain\0", 3: "@x", 9: "nobody"}
SAFE = {0: "'" + NAMES[0], 1: NAMES[1], 2: "plain", 3: "'@x"}


@pytest.mark.parametrize("kind", ["csv", "json", "yaml"])
def test_i8_names_of_classes_do_no_harm(mcx: Callable, tmp_path: Path, truth, undrawn, kind: str) -> None:
    path = tmp_path / f"names.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("class_id", "class_name"), *NAMES.items()])
    else:  # JSON is YAML
        path.write_text(json.dumps({str(k): v for k, v in NAMES.items()}))
    done = mcx(*words(tmp_path, "--class-map", path))
    assert done.code == 0, done.err
    assert "1 classes of --class-map have no sample" in done.err
    for file in ("by_class.csv", "by_class_and_task.csv"):
        with (tmp_path / "out" / file).open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {int(row["class_id"]): row["class_name"] for row in rows} == SAFE
        assert any(row["csl_mean"].startswith("-") for row in rows), "negative numbers stay numbers"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "class,name\n0,a\n"),
        ("m.csv", "class_id,class_name\n0,a\n0,b\n"),
        ("m.csv", "class_id,class_name\nx,a\n"),
        ("m.json", "[1]"),
        ("m.json", "{"),
        ("m.yaml", "0: [a, b]"),
        ("m.yaml", "0: {"),
    ],
)
def test_maps_that_are_none_are_refused(
    mcx: Callable, tmp_path: Path, truth, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    done = mcx(*words(tmp_path, "--class-map", tmp_path / name))
    assert (done.code, done.out, name in done.err) == (3, "", True), done.err


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "code", "message"),
    [
        ((), 2, "no metrics"),
        (("--flags", "flags.csv"), 2, "no metrics"),
        (("--csl", "nope"), 3, "'nope' does not exist"),
        (("--csl", "empty"), 3, "'empty' holds no csl_*.npy"),
        (("--csl", "two"), 3, "holds 2 files csl_*.npy: csl_a.npy, csl_b.npy"),
        (("--dormant", "empty"), 3, "holds no dormant_props_epoch_<e>.npy"),
        (("--dormant", "flags.csv"), 3, "is not called dormant_props_epoch_<e>.npy"),
        (("--curvature", "empty"), 3, "holds no curvature_results_*.csv"),
        (("--tracking", "nope.csv"), 3, "'nope.csv' does not exist"),
        (("--memo", "wide.csv"), 3, "2 other columns of numbers"),
        (("--memo", "two.npz"), 3, "2 arrays that could be scores"),
        (("--memo", "none.npz"), 3, "no array of sample ids"),
        (("--memo", "broken.npz"), 3, "not a readable .npz"),
        (("--memo", "objects.npz"), 3, "not a readable .npz"),
        (("--with", "text.csv"), 3, "no column of numbers"),
        (("--with", "noids.csv"), 3, "has no column sample_id"),
        (("--with", "long.csv"), 3, "not a readable table"),
        (("--with", "truncated.npy"), 3, "it is damaged"),
        (("--with", "wide.csv", "--flags", "wide.csv"), 3, "no column of 0 and 1"),
        (("--with", "wide.csv", "--by", "class"), 2, "did you mean 'class_id'"),
        (("--tracking", "unscored.csv"), 2, "no source gives a metric"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_cannot_be_used_is_one_line(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: tuple, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "two"):
        Path(name).mkdir()
    for name in ("a", "b"):
        np.save(f"two/csl_{name}.npy", np.zeros(3))
    for name, text in {
        "flags.csv": "sample_id,f\n1,0\n", "wide.csv": "sample_id,a,b\n1,2,3\n", "text.csv": "sample_id,a\n1,x\n",
        "noids.csv": "a,b\n1,2\n", "long.csv": "sample_id,a\n1,2,3\n", "unscored.csv": "sample_id,memo_score\n1,\n",
    }.items():  # fmt: skip
        Path(name).write_text(text)
    np.savez("two.npz", ids=np.arange(2), scores=np.zeros(2), memorization=np.zeros(2))
    np.savez("none.npz", scores=np.zeros(2))
    np.savez("objects.npz", ids=np.arange(2), scores=np.array([{}, 1], dtype=object))
    Path("broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save("truncated.npy", np.zeros(100))
    Path("truncated.npy").write_bytes(Path("truncated.npy").read_bytes()[:-8])
    done = mcx("correlate", *ask, "--output-dir", "out")
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert len([line for line in done.err.splitlines() if "error:" in line]) == 1
    assert not Path("out").exists()


def test_parquet_without_pyarrow_names_the_extra(mcx: Callable, tmp_path: Path, truth, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = mcx(*words(tmp_path, "--parquet"))
    assert (done.code, done.out, "modeconn-cli[parquet]" in done.err) == (2, "", True)
    assert not (tmp_path / "out").exists()


def test_parquet_holds_the_same_table(mcx: Callable, tmp_path: Path, truth) -> None:
    assert mcx(*words(tmp_path, "--parquet")).code == 0
    found = pd.read_parquet(tmp_path / "out/per_sample.parquet")
    assert list(found) == list(table(tmp_path))
    assert np.array_equal(found["csl"], table(tmp_path)["csl"].to_numpy(np.float32), equal_nan=True)


def test_the_files_of_the_other_commands_are_joined(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    run, scores, csl, cv = networks / "seed0", tmp_path / "scores", tmp_path / "csl", tmp_path / "cv"
    some = ("--max-samples", "30")
    assert (
        mcx("csl", "score", "--checkpoint-dir", run, *some, "--grad", "input", "--output-dir", scores).code
        == 0
    )
    assert mcx("csl", "aggregate", "--input-dir", scores, "--output-dir", csl).code == 0
    assert mcx("curvature", "--checkpoint-dir", run, *some, "--niter", "1", "--save-dir", cv).code == 0
    done = mcx(
        "correlate", "--csl", csl, "--curvature", cv / "epoch_4", "--output-dir", tmp_path / "out", "--json"
    )
    assert done.code == 0, done.err
    found = table(tmp_path)
    assert found["sample_id"].tolist() == np.load(cv / "sample_ids.npy").tolist()
    assert set(found["split"]) == {"train"}
    assert list(found)[:4] == ["sample_id", "split", "class_id", "csl"]
    (csl_file,) = (path for path in csl.glob("csl_*.npy") if not path.name.startswith("csl_ce_"))
    assert np.array_equal(found["csl"].to_numpy(np.float32), np.load(csl_file))
    assert np.array_equal(
        found["curvature"].to_numpy(np.float32), np.load(cv / "epoch_4/per_image_curvature.npy")
    )


@pytest.fixture
def scored(mcx: Callable, networks: Path, tmp_path: Path) -> Path:
    where = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--max-samples", "40", "--niter", "2")
    assert mcx("curvature", *where, "--save-dir", tmp_path / "scored").code == 0
    return tmp_path / "scored"


def test_i9_a_job_that_has_not_finished_is_not_joined(mcx: Callable, scored: Path, tmp_path: Path) -> None:
    words = ("correlate", "--curvature", scored, "--output-dir", tmp_path / "out")
    assert mcx(*words).code == 0
    (scored / ".mcx/curvature/manifest.json").unlink()
    done = mcx(*words, "--overwrite", "--no-resume")
    assert (done.code, f"'curvature' in '{scored}' is not complete" in done.err) == (3, True)


def test_a_flipped_bit_of_a_result_is_noticed(mcx: Callable, scored: Path, tmp_path: Path) -> None:
    path = scored / "per_image_curvature.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    done = mcx("correlate", "--curvature", scored, "--output-dir", tmp_path / "out")
    assert (done.code, f"'{path}' is not as 'curvature' left it" in done.err) == (3, True)


def test_classes_are_no_metric_and_no_flag(mcx: Callable, scored: Path, tmp_path: Path) -> None:
    table = next(scored.glob("curvature_results_*.csv"))
    words = ("correlate", "--curvature", scored, "--with", table, "--output-dir", tmp_path / "out", "--json")
    done = mcx(*words)
    assert (done.code, "as they number classes and tasks: label" in done.err) == (0, True)
    assert "label" not in {row["metric_a"] for row in json.loads(done.out)["correlations"]}


def test_no_torch_is_loaded_for_tables(tmp_path: Path, truth) -> None:
    """It takes two seconds and half of the memory."""
    code = (
        "import sys; from modeconn_cli.cli import app; code = app.main(sys.argv[1:]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, words(tmp_path, "--quiet"))], check=False)
    assert done.returncode == 0
