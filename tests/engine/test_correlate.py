"""The pieces of `mcx correlate` against scipy, pandas and brute force."""

from __future__ import annotations

import csv
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from modeconn_cli.engine import statistics
from modeconn_cli.engine.commands.correlate import categories, figures, groups, tables
from modeconn_cli.engine.commands.correlate.join import Joined
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files, tracking_file
from modeconn_cli.engine.results.columns import read_csv
from modeconn_cli.engine.settings.shared import FigureSettings


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """Ties, float32, missing and infinite values, a constant column and one without two values."""
    generator = np.random.default_rng(0)
    base = generator.standard_normal(200)
    return {
        "smooth": base,
        "ties": np.round(base + generator.standard_normal(200)),
        "float32": (base**3).astype(np.float32),
        "holes": np.where(generator.random(200) < 0.3, np.nan, -base + generator.standard_normal(200)),
        "infinite": np.where(generator.random(200) < 0.1, np.inf, base),
        "constant": np.full(200, 3.0),
        "large": base * 1e300,
        "rare": np.where(np.arange(200) < 2, base, np.nan),
    }


def test_correlations_are_those_of_scipy_over_pairwise_complete_samples(
    columns: dict[str, np.ndarray],
) -> None:
    found = statistics.correlations(columns)
    assert [(c.metric_a, c.metric_b) for c in found] == list(combinations(columns, 2))
    for c in found:
        x, y = columns[c.metric_a].astype(float), columns[c.metric_b].astype(float)
        both = np.isfinite(x) & np.isfinite(y)
        assert c.n == both.sum()
        if "constant" in (c.metric_a, c.metric_b) or c.n < 3:
            assert c.pearson is c.pearson_p is c.spearman is c.spearman_p is c.pearson_low is None
            continue
        pearson, spearman = stats.pearsonr(x[both], y[both]), stats.spearmanr(x[both], y[both])
        assert c.pearson == pytest.approx(pearson.statistic, abs=1e-12)
        assert c.pearson_p == pytest.approx(pearson.pvalue, rel=1e-6, abs=1e-300)
        assert c.spearman == pytest.approx(spearman.statistic, abs=1e-12)
        assert c.spearman_p == pytest.approx(spearman.pvalue, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(("n", "least"), [(3, 1 / 3), (4, 1 / 12), (5, 1 / 60)])
def test_few_samples_prove_little(n: int, least: float) -> None:
    """Of n! orders one agrees entirely and one opposes entirely."""
    values = np.arange(n, dtype=float)
    (found,) = statistics.correlations({"a": values, "b": -(values**3)})
    assert found.spearman == pytest.approx(-1)
    assert found.spearman_p == pytest.approx(least)
    assert found.spearman_low is found.spearman_high is None


def test_a_column_is_ranked_once_for_each_set_of_shared_samples(
    columns: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, plain = [], stats.rankdata
    monkeypatch.setattr(stats, "rankdata", lambda x: calls.append(1) or plain(x))
    statistics.correlations({name: columns[name] for name in ("smooth", "ties", "float32", "large")})
    assert len(calls) == 4


def test_groups_are_those_of_pandas(columns: dict[str, np.ndarray]) -> None:
    generator = np.random.default_rng(1)
    keys = {"class_id": generator.integers(0, 9, 200) * 1.0, "task_num": generator.integers(0, 4, 200) * 1.0}
    keys["class_id"][:5] = np.nan
    keys["class_id"][5] = 77  # a group of one has no standard deviation
    metrics = ["smooth", "float32", "holes"]
    frame = pd.DataFrame({**keys, **{name: columns[name].astype(float) for name in metrics}})
    for by in (["class_id"], ["task_num"], ["class_id", "task_num"]):
        expected = frame.groupby(by).agg({name: ["mean", "std", "count"] for name in metrics})
        found = groups.grouped(pd.DataFrame({**keys, **columns}), by, [*metrics, "large"])
        assert np.array_equal(found["n"], frame.groupby(by).size())
        assert np.array_equal(found[by], expected.index.to_frame())
        for name in metrics:
            for column, word in (("mean", "mean"), ("sd", "std"), ("n", "count")):
                np.testing.assert_allclose(found[f"{name}_{column}"], expected[name][word], rtol=1e-12)
        for column in ("mean", "sd"):
            np.testing.assert_allclose(found[f"large_{column}"], found[f"smooth_{column}"] * 1e300, rtol=1e-9)


SEED = {
    ("csl", "curvature", "memo_score"): {
        "HHH": "Most problematic samples",
        "HLH": "Difficult but stable samples",
        "LHL": "Easy but potentially disruptive samples",
        "LLL": "Ideal samples for early training",
    },
    ("csl", "curvature", "dormant_prop", "memo_score"): {
        "HHHH": "Most problematic samples",
        "HLLH": "Difficult but stable samples",
        "LHHL": "Easy but plasticity-impaired samples",
        "LLLL": "Ideal samples for training",
    },
}
WORDS = {"csl": "csl", "curvature": "curvature", "dormant_prop": "dormant", "memo_score": "memo"}


@pytest.mark.parametrize("metrics", SEED, ids=len)
def test_every_combination_has_the_documented_name_or_is_spelled(metrics: tuple[str, ...]) -> None:
    combined = list(product("LH", repeat=len(metrics)))
    levels = {m: np.array([float(c[k] == "H") for c in combined]) for k, m in enumerate(metrics)}
    found, medians = categories.split(pd.DataFrame(levels))
    assert medians == dict.fromkeys(metrics, 0.5)
    for c, name in zip(combined, found, strict=True):
        spelled = ", ".join(
            f"{'high' if level == 'H' else 'low'} {WORDS[m]}" for level, m in zip(c, metrics, strict=True)
        )
        assert name == SEED[metrics].get("".join(c), spelled)


def test_high_is_above_the_median_and_a_missing_value_has_no_category() -> None:
    csl = np.array([1.0, 2, 3, np.nan, np.inf])
    found, medians = categories.split(pd.DataFrame({"lt": csl, "csl": csl}))
    assert medians == {"csl": 2.0}
    assert found.astype(object).fillna("").tolist() == ["low csl", "low csl", "high csl", "", "high csl"]
    none, medians = categories.split(pd.DataFrame({"lt": csl}))
    assert (none.isna().all(), len(none.cat.categories), medians) == (True, 0, {})


def test_numbers_in_the_table_read_back_as_they_were(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    count = files.ROWS + 7
    bits = generator.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    wide = generator.integers(0, 2**63, count, dtype=np.uint64).view(np.float64)
    bits[~np.isfinite(bits)] = np.nan
    wide[~np.isfinite(wide)] = np.nan
    wide[:2] = np.inf, -np.inf
    short = np.round(generator.random(count), 4)
    columns = {"csl": bits, "lt": wide, "memo_score": short, "class_id": np.where(short < 0.5, np.nan, 7.0)}
    order = ["class_id", "memo_score", "csl", "lt"]
    joined = Joined(pd.DataFrame(columns)[order].rename_axis("sample_id"), "train", order[1:], [], [], {})
    code = np.where(short < 0.2, -1, 0)
    category = pd.Series(pd.Categorical.from_codes(code, ["high csl, low memo"]))
    tables.write_csv(tmp_path / "x.csv", tables.per_sample(joined, category, None), joined)
    found = read_csv(tmp_path / "x.csv")
    assert list(found) == ["sample_id", "split", "class_id", "memo_score", "csl", "lt", "category"]
    assert np.array_equal(found["csl"].to_numpy(np.float32), bits, equal_nan=True)
    for name in ("lt", "memo_score", "class_id"):
        assert np.array_equal(found[name], columns[name], equal_nan=True)
    with (tmp_path / "x.csv").open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert np.array_equal([float(row["lt"] or "nan") for row in cells], wide, equal_nan=True)
    assert max(len(row["memo_score"]) for row in cells) == len("0.1234"), "short decimals stay as they are"
    assert np.array_equal(found["category"].isna(), code < 0)
    assert set(found["category"].dropna()) == {"high csl, low memo"}


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_i8_text_that_a_spreadsheet_would_run_gets_an_apostrophe(begin: str, tmp_path: Path) -> None:
    assert tables.safe(f"{begin}x\0y") == f"'{begin}xy"
    assert tables.safe(f"\0{begin}x") == f"'{begin}x"
    assert tables.safe(f"a{begin}") == f"a{begin}"
    tables.write_small(tmp_path / "x.csv", pd.DataFrame({"a": [-1.5, None, float("nan")]}))
    assert (tmp_path / "x.csv").read_text() == 'a\n-1.5\n""\n""\n', "numbers stay as they are"


HEADER = "sample_id,memo_score,true_label,class_id,epoch_num,batch_num,task_num"
FORMS = {
    "integer": lambda c: str(c),
    "quoted": lambda c: '"[' + ", ".join("1" if k == c else "0" for k in range(5)) + ']"',
    "numpy": lambda c: "[" + " ".join("1" if k == c else "0" for k in range(5)) + "]",
    "unquoted": lambda c: "[" + ",".join("1" if k == c else "0" for k in range(5)) + "]",
    "broken lines": lambda c: '"[' + "\n ".join("1" if k == c else "0" for k in range(5)) + ']"',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_tracking_is_collapsed_as_pandas_would(form: str, chunk: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    ids = generator.integers(0, 12, 90) * 1000
    frame = pd.DataFrame({"id": ids, "epoch": generator.integers(0, 20, 90)})
    frame["task"], frame["class"] = frame["epoch"] // 5, ids // 1000 % 5
    frame["memo"] = ["" if k == 3000 else f"{k / 7:.4f}" for k in ids]
    lines = [
        f"{r.id},{r.memo},{FORMS[form](r['class'])},{r['class']},{r.epoch},0,{r.task}"
        for _, r in frame.iterrows()
    ]
    path = tmp_path / "sample_tracking_data_final.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    found = tracking_file.read(path, chunk)
    by_id = frame.groupby("id")
    assert np.array_equal(found.index, by_id.size().index)
    expected = {
        "times_seen": by_id.size(),
        "first_epoch": by_id["epoch"].min(),
        "last_epoch": by_id["epoch"].max(),
        "task_num": by_id["task"].min(),
        "class_id": by_id["class"].first(),
    }
    for name, column in expected.items():
        assert np.array_equal(found[name], column), name
    memo = pd.to_numeric(by_id["memo"].first(), errors="coerce")
    assert np.array_equal(found["memo_score"], memo, equal_nan=True)


def test_the_printed_form_of_the_document_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [
        "1234,0.7543,[0,0,1,0,...],2,0,5,0",
        "5678,0.2156,[0,1,0,0,...],1,0,5,0",
        "9012,0.8901,[1,0,0,0,...],0,1,12,0",
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    found = tracking_file.read(path)
    assert found.index.tolist() == [1234, 5678, 9012]
    assert found["class_id"].tolist() == [2, 1, 0]
    assert found["memo_score"].tolist() == [0.7543, 0.2156, 0.8901]
    assert found["first_epoch"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,,3,3,0,0,0", "1,,4,4,1,0,0"], "sample 1 two values of class_id, 3 and 4"),
        (["1,0.5,3,3,0,0,0", "1,0.25,3,3,1,0,0"], "sample 1 two values of memo_score"),
        (["x,,3,3,0,0,0"], "not whole numbers: the first is 'x'"),
        (["1.5,,3,3,0,0,0"], "not whole numbers: the first is '1.5'"),
        ([",,3,3,0,0,0"], "not whole numbers: the first is empty"),
        (["True,,3,3,0,0,0"], "not whole numbers: the first is 'True'"),
        (["-4,,3,3,0,0,0"], "1 negative sample ids: the first is -4"),
        (["1,,3,3,zero,0,0"], "column 'epoch_num' that are not numbers: the first is 'zero'"),
        (["1,,3,3,0.5,0,0"], "column 'epoch_num' that are not whole numbers"),
        (["1,,[0,1],1,0,0,0", "2,,[0,1,0],1,0,0,0"], "lists of labels of different lengths"),
        (["1,,1,1,0,0,0", "2,,[0,1,0],1,0,0,0"], "lists of labels of different lengths"),
        (["1,,[0,1,0],1,0,0,0", "2,,[0,1],1,0,0,0"], "lists of labels of different lengths"),
        (["1,,3,3,0,0,0,9,9"], "has 9 cells in its first row and 7 in its header"),
        ([], "names no samples"),
    ],
)
def test_tracking_that_contradicts_itself_is_refused(rows: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    for chunk in (1, 1000):
        with pytest.raises(InputError) as error:
            tracking_file.read(path, chunk)
        assert message in error.value.message
        assert str(path) in error.value.message


NASTY = ["$x", "a_b_$", "new\nline", "n" * 400, "\\frac{", "[red]", "é", ""]


@pytest.mark.parametrize("count", [30, figures.POINTS + 1])
def test_i4_any_name_and_any_value_can_be_drawn(count: int) -> None:
    generator = np.random.default_rng(4)
    columns = {name: generator.standard_normal(count) for name in NASTY}
    columns |= {
        "constant": np.ones(count),
        "nothing": np.full(count, np.nan),
        "huge": (generator.random(count) - 0.5) * 3e308,
        "tiny": generator.standard_normal(count) * 5e-324,
        "more": np.ones(count),
    }
    found = statistics.correlations(columns)
    assert figures.scatter(pd.DataFrame(columns), found, None, "title", FigureSettings()).startswith(
        b"\x89PNG"
    )
    keys = {"class_id": np.arange(count) % 3.0}
    group = groups.grouped(pd.DataFrame({**columns, **keys}), ["class_id"], list(columns))
    assert figures.groups({"class_id": group}, list(columns), [], "title", FigureSettings()).startswith(
        b"\x89PNG"
    )


def test_a_single_metric_is_a_histogram() -> None:
    metrics = pd.DataFrame({"csl": np.arange(9.0)})
    assert figures.scatter(metrics, [], None, "title", FigureSettings()).startswith(b"\x89PNG")


def test_csv_cells_are_quoted_by_the_rules(tmp_path: Path) -> None:
    cells = ['a,b "c"\nd', "=HYPERLINK(1)"]
    tables.write_small(tmp_path / "x.csv", pd.DataFrame([cells], columns=["one", "=two"]))
    with (tmp_path / "x.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["one", "'=two"], [cells[0], "'=HYPERLINK(1)"]]
