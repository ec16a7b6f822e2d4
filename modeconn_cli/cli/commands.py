"""The tables of commands, topics and common flags. Imports nothing heavy, so that help and TAB stay instant."""

from __future__ import annotations

from typing import NamedTuple

# A line of help each. `curve train` stands in cli/curve.py, and its settings are `CurveTrainSettings` in
# engine/settings/curve.py.
COMMANDS: dict[str, str] = {
    "train": "Train networks, one per seed.",
    "swap": "Exchange neurons and prove that nothing else changes.",
    "align": "Permute a network's units to lie near another's.",
    "merge": "Average networks, aligned or as they are.",
    "l2": "Measure how far apart checkpoints are.",
    "convert": "Write a network or a curve in another layout.",
    "curve train": "Train a curve between two networks.",
    "curve eval": "Evaluate a curve or a straight line.",
    "curve plane": "Evaluate a plane in weight space.",
    "curve compare": "Compare curves and straight lines.",
    "curve analyze": "Measure how far each layer moves.",
    "curve extract": "Write the network at one position.",
    "lmc run": "Branch off a training run, measure the lines back.",
    "lmc interpolate": "Measure the barrier between two networks.",
    "lmc report": "Compare the barriers of several experiments.",
    "csl score": "Score every sample at every checkpoint of a run.",
    "csl aggregate": "Cumulative sample loss and learning time.",
    "curvature": "Measure the curvature of every sample's loss.",
    "dormant": "Find the units that every sample leaves inactive.",
    "memo": "Measure how far each image is memorised.",
    "correlate": "Join every per-sample metric and correlate them.",
    "animate": "Draw layer distances along a curve.",
    "info": "Say what a checkpoint holds.",
    "status": "Say how far the jobs of a folder are.",
    "completion": "Print a shell's completion script.",
    "doctor": "Say whether this machine is fit.",
    "demo": "Run the whole story on the built-in digits.",
    "help": "Explain a command, or a topic.",
}
ALIASES: dict[str, str] = {"curve convert": "convert"}  # other names of commands
GROUPS: dict[str, str] = {
    "curve": "Train, evaluate and analyse curves between networks.",
    "lmc": "Study linear mode connectivity.",
    "csl": "Follow every sample's loss over a training run.",
}
# What `mcx help` explains beside the commands; the texts are in cli/topics/.
TOPICS: dict[str, str] = {
    "exit-codes": "What a script learns from the exit code.",
    "environment": "Variables, configuration files and mcx.yaml.",
    "files": "Which file each command writes.",
    "models": "Networks: registered, of a library, of one's own.",
    "data": "Data sets: registered, folders, .npz, of one's own.",
    "compat": "From the original scripts to mcx.",
}
EXIT_CODES: dict[str, str] = {
    "0": "done",
    "1": "a bug",
    "2": "wrong usage or settings",
    "3": "input cannot be used, or data or training became non-finite",
    "4": "ran fine and the answer is no",
    "5": "output cannot be written",
    "75": "stopped after saving, run the same command again",
    "130, 143": "interrupted",
    "141": "the reader of the pipe has gone",
}


class Display(NamedTuple):
    """A flag that every command has beside its settings; all but `--config` are switches."""

    flag: str
    help: str
    short: tuple[str, ...] = ()
    metavar: str = ""
    rare: bool = False


DISPLAY: dict[str, Display] = {
    "config": Display("--config", "read settings from a YAML file; values as in flags", metavar="FILE"),
    "print_config": Display("--print-config", "print the settings and stop", rare=True),
    "dry_run": Display("--dry-run", "say what would be done and stop"),
    "as_json": Display("--json", "print the result as JSON"),
    "quiet": Display("--quiet", "no progress and no notes", ("-q",)),
    "verbose": Display("--verbose", "more notes", ("-v",), rare=True),
}
HELP_FLAGS = ("-h", "--help", "--help-all")
HELP = "show the usual flags, or every one, and stop"


def first_words() -> dict[str, str]:
    """What can follow `mcx`, with a line of help each, in the order of the table."""
    return {name.split()[0]: GROUPS.get(name.split()[0], help_) for name, help_ in COMMANDS.items()}


def inside(group: str) -> dict[str, str]:
    """What can follow `mcx GROUP`, with a line of help each."""
    named = COMMANDS | {alias: COMMANDS[name] for alias, name in ALIASES.items()}
    return {name.split()[1]: help_ for name, help_ in named.items() if name.startswith(f"{group} ")}


def meant(words: list[str]) -> list[str]:
    """The words with a command's own name in the place of another one."""
    name = " ".join(words[:2])
    return [*ALIASES[name].split(), *words[2:]] if name in ALIASES else words


def named(words: list[str]) -> str:
    """The command that a command line names, `curve` alone where the rest is missing, empty for none."""
    plain = meant([word for word in words if not word.startswith("-")][:2])
    for count in (2, 1):
        if " ".join(plain[:count]) in COMMANDS:
            return " ".join(plain[:count])
    return plain[0] if plain and plain[0] in GROUPS else ""
