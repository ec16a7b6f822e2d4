"""What the documents say is what the program does."""

from __future__ import annotations

import html
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import modeconn_cli
from modeconn_cli import api
from modeconn_cli.cli import config
from modeconn_cli.cli.commands import COMMANDS, GROUPS, TOPICS
from modeconn_cli.cli.complete import settings_of
from modeconn_cli.engine.settings.base import specs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


# In the order of the site: each goes on where those before it ended, in the same folder.
TUTORIALS = (
    "README.md",
    *(f"docs/{name}.md" for name in ("samples", "distances", "barriers", "planes", "symmetries", "tasks")),
)
SHORT = ("--epochs", "1", "--curve-epochs", "1", "--num-points", "3")
# Every run of the documents in small; the words of a command stay what they are.
SHORTENED = (
    ("--epochs 20", "--epochs 2"),
    ("checkpoint-20", "checkpoint-2"),
    ("--end-epoch 20 --step 5", "--end-epoch 2 --step 1"),
    ("--step 5", "--step 1"),
    ("--epochs 60", "--epochs 2"),
    ("checkpoint-60", "checkpoint-2"),
    ("--num-points 61", "--num-points 5"),
    ("1,5,10,20", "1,2"),
    ("--start-epoch 8 --end-epoch 40 --step 8", "--start-epoch 2 --end-epoch 10 --step 4"),
)
FASTER = {
    "demo": SHORT,
    "curvature": ("--niter", "1"),
    "train --preset incremental-digits": ("--epochs-per-task", "2", "--save-freq", "2"),
    "lmc run": ("--k2", "1", "--num-alphas", "3"),
    "lmc interpolate": ("--num-alphas", "3"),
    "curve eval": ("--num-points", "3"),
    "curve plane": ("--grid-points", "2"),
}


def block(name: str, text: str = README) -> str:
    """The fenced block after `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str, variables: dict[str, str]) -> list[list[str]]:
    """The words of every line of a block of bash, shortened; assignments go into `variables`."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for long, short in SHORTENED:
            line = line.replace(long, short)
        words = shlex.split(re.sub(r"\$(\w+)", lambda name: variables[name[1]], line), comments=True)
        if len(words) == 1 and "=" in words[0]:
            name, _, variables[name] = words[0].partition("=")
        elif words:
            found.append(words)
    return found


@pytest.mark.slow
def test_every_block_runs_in_order_in_one_folder(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but what the documents say, after the demo, as a new user pastes it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mymodel", raising=False)
    variables: dict[str, str] = {}
    ran = set()
    for document in TUTORIALS:
        for language, text in blocks((ROOT / document).read_text("utf-8")):
            named = re.match(r"# (\w+\.py)\n", text)
            if language == "python" and named:
                Path(named[1]).write_text(text)
            for words in commands(text, variables) if language == "bash" else []:
                if words[0] == "python":
                    runpy.run_path(words[1])
                elif words[:2] != ["pip", "install"]:  # the test of the package does that
                    assert words[0] == "mcx", words
                    line = " ".join(words[1:])
                    more = [word for name, each in FASTER.items() if line.startswith(name) for word in each]
                    done = mcx(*words[1:], *more)
                    assert done.code == 0, (document, line, done.err)
                    assert done.out, (document, line)
                    ran.add(line.split(" --")[0])
    assert ran >= {
        "demo",
        "swap A.pt",
        "train",
        "csl aggregate",
        "correlate",
        "lmc report results/cnn/digits/lmc",
    }
    results = Path("results/cnn/digits")
    assert (results / "curve_neuronswap_mid2_reg/analysis/layer_distances_evolution.gif").exists()
    assert Path("figures/curve.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in (results / "endpoint_l2_distances").glob("[!.]*")} == {
        "seed0-seed1.json", "seed0-mid2.json", "summary.txt", "summary.csv",
    }  # fmt: skip
    for folder, columns, rows in (
        ("correlations", "csl lt curvature directional_eig dormant_prop dormant_post flipped category", 1437),
        ("tasks/correlations", "csl curvature dormant_prop task_num times_seen", 1437 - 140),  # trained on
    ):
        header, *lines = (results / folder / "per_sample.csv").read_text().splitlines()
        assert set(columns.split()) <= set(header.split(","))
        assert len(lines) == rows


def test_the_readme_is_short_and_names_the_test_command() -> None:
    assert len(README.splitlines()) <= 250
    assert "`make test`" in README
    assert "make test\n" in (ROOT / ".ci/run").read_text()


def test_links_between_the_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            if not target.startswith("https://"):
                assert (path.parent / target).exists(), (path.name, target)


def test_every_script_of_the_documents_is_in_the_table() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| \d \|", line)]
    assert {row[2] for row in rows} == set("12345")
    for names in re.findall(r"`mcx ([a-z0-9]+(?: [a-z]+)?)", "\n".join(rows)):
        assert names in COMMANDS or names.split()[0] in COMMANDS, names
    for name in (ROOT / "configs/workflows").iterdir():
        assert name.name in README
    for name in re.findall(r"`(\w+)`", "\n".join(row for row in rows if "modeconn_cli.api" in row)):
        assert name in api.__all__


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for command in COMMANDS:
        page = html.unescape((tmp_path / f"reference/{command.replace(' ', '-')}.html").read_text("utf-8"))
        for spec in specs(settings_of(command)):
            assert spec.positional or spec.flag in page, (command, spec.flag)
    for topic in TOPICS:
        assert (tmp_path / f"topics/{topic}.html").exists()
    python = (tmp_path / "reference/python.html").read_text("utf-8")
    assert all(f'id="{name}"' in python.lower() for name in map(str.lower, api.__all__))
    assert "fonts.googleapis" not in python


def test_the_citation_names_what_the_package_is() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == modeconn_cli.__version__
    assert cited["license"] == "MIT"
    assert [author["name"].lower() for author in cited["authors"]] == ["the mcx authors"]
    assert "the mcx authors" in (ROOT / "LICENSE").read_text()


def test_the_paper_cites_what_its_bibliography_holds() -> None:
    paper, bibliography = (ROOT / "paper.md").read_text(), (ROOT / "paper.bib").read_text()
    cited = set(re.findall(r"@(\w+)", paper.partition("\n---\n")[2]))
    assert cited == set(re.findall(r"^@\w+\{(\w+),", bibliography, re.MULTILINE))
    assert "# Statement of need" in paper


def test_the_tree_is_the_packages() -> None:
    shown = set(re.findall(r"[├└]── (\w+)/", block("tree", (ROOT / "docs/architecture.md").read_text())))
    folders = {path.parent.name for path in (ROOT / "modeconn_cli").rglob("__init__.py")} - {"modeconn_cli"}
    assert shown == folders


def test_every_command_is_documented() -> None:
    named = set(re.findall(r"^\| `mcx ([^`]+)`", (ROOT / "docs/commands.md").read_text(), re.MULTILINE))
    assert named == set(COMMANDS)


def test_every_configuration_is_loaded_by_the_command_it_names() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        command = re.match(r"# mcx (.+?) --config", path.read_text())
        assert command is not None, f"{path} does not begin with '# mcx COMMAND --config'"
        cls = settings_of(command[1])
        values, _, _ = config.resolve(cls, command[1], {}, path)
        cls(**values)
        assert yaml.safe_load(path.read_text())


def test_the_table_of_commands_is_what_the_modules_offer() -> None:
    import importlib

    offered = set()
    for module in {name.split()[0] for name in COMMANDS}:
        app = importlib.import_module(f"modeconn_cli.cli.{module}").app
        prefix = f"{module} " if module in GROUPS else ""
        offered |= {prefix + str(command.name) for command in app.registered_commands}
    assert offered == set(COMMANDS)
