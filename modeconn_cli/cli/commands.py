"""The table of commands. Imports nothing, so that help and TAB stay instant."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """`module` of the command line, `settings` as module:class of `engine.settings`, one line of help."""

    module: str
    settings: str
    help: str


COMMANDS: dict[str, Command] = {
    "train": Command("train", "train:TrainSettings", "Train networks, one per seed."),
    "swap": Command("swap", "swap:SwapSettings", "Exchange neurons and prove that nothing else changes."),
    "l2": Command("l2", "l2:L2Settings", "Measure how far apart checkpoints are."),
    "curve train": Command("curve", "curve:CurveTrainSettings", "Train a curve between two networks."),
    "curve eval": Command("curve", "curve:CurveEvalSettings", "Evaluate a curve or a straight line."),
    "curve analyze": Command("curve", "curve:CurveAnalyzeSettings", "Measure how far each layer moves."),
    "curve extract": Command("curve", "curve:CurveExtractSettings", "Write the network at one position."),
    "lmc run": Command("lmc", "lmc:LmcRunSettings", "Branch off a training run, measure the lines back."),
    "lmc interpolate": Command(
        "lmc", "lmc:LmcInterpolateSettings", "Measure the barrier between two networks."
    ),
    "lmc report": Command("lmc", "lmc:LmcReportSettings", "Compare the barriers of several experiments."),
    "csl score": Command("csl", "csl:CslScoreSettings", "Score every sample at every checkpoint of a run."),
    "csl aggregate": Command("csl", "csl:CslAggregateSettings", "Cumulative sample loss and learning time."),
    "curvature": Command(
        "curvature", "curvature:CurvatureSettings", "Measure the curvature of every sample's loss."
    ),
    "dormant": Command(
        "dormant", "dormant:DormantSettings", "Find the units that every sample leaves inactive."
    ),
    "correlate": Command(
        "correlate", "correlate:CorrelateSettings", "Join every per-sample metric and correlate them."
    ),
    "animate": Command("animate", "animate:AnimateSettings", "Draw layer distances along a curve."),
    "info": Command("info", "info:InfoSettings", "Say what a checkpoint holds."),
    "status": Command("status", "status:StatusSettings", "Say how far the jobs of a folder are."),
    "completion": Command(
        "completion", "completion:CompletionSettings", "Print a shell's completion script."
    ),
    "demo": Command("demo", "demo:DemoSettings", "Run the whole story on the built-in digits."),
}
GROUPS: dict[str, str] = {
    "curve": "Train, evaluate and analyse curves between networks.",
    "lmc": "Study linear mode connectivity.",
    "csl": "Follow every sample's loss over a training run.",
}


def first_words() -> dict[str, str]:
    """What can follow `mcx`, with a line of help each, in the order of the table."""
    return {name.split()[0]: GROUPS.get(name.split()[0], command.help) for name, command in COMMANDS.items()}


def named(words: list[str]) -> str:
    """The command that a command line names, `curve` alone where the rest is missing, empty for none."""
    plain = [word for word in words if not word.startswith("-")][:2]
    for count in (2, 1):
        if " ".join(plain[:count]) in COMMANDS:
            return " ".join(plain[:count])
    return plain[0] if plain and plain[0] in GROUPS else ""
