"""How a setting is declared, checked and written down."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError

# What may change between two runs into the same folder: nothing, only towards more work, anything.
Change = Literal["same", "grow", "free"]

LARGEST = 2**63 - 1  # of whole numbers: torch and NumPy know no larger ones

# The parts of a command's help, in their order.
Panel = Literal[
    "Required",
    "What to do",
    "Data",
    "Network",
    "Training",
    "Compute and processes",
    "Output",
    "Settings and help",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What a setting is: the first part is declared by `setting`, the second read off the class it stands in."""

    default: Any
    help: str
    low: float | None = None  # inclusive, as `high` is
    high: float | None = None
    above: float | None = None  # exclusive
    flags: tuple[str, ...] = ()  # further spellings of the flag
    keys: tuple[str, ...] = ()  # further YAML keys
    positional: bool = False
    change: Change = "same"
    shown: str | None = None  # in the help, in the place of the default
    missing: tuple[str, str] | None = (
        None  # makes it required: what is said where it is missing, and the hint
    )
    needs: tuple[
        str, ...
    ] = ()  # the setting without which this one has no effect, and which of its values will do
    effective: tuple[
        str, ...
    ] = ()  # values that have an effect where the inputs leave the others without any
    unless: str = ""  # the setting with which this one has no effect
    gathers: bool = False  # of a flag that is given several times all values count, not the last alone
    repeats: bool = False  # a list may hold a value twice; elsewhere it would change nothing
    everywhere: bool = False  # scripts hand it to every command: where nothing reads it, it is not refused
    machine: bool = False  # files list it whatever they are about: only a flag or a variable counts as given
    canonical: Callable[[str], str] | None = None  # gives the one spelling of names that have several
    absent: bool = False  # a path that need not be there
    labelled: bool = False  # a path may have a label before it: label=path
    tensors: bool = False  # a file that torch.save writes
    adds_up: bool = False  # a file that is one of several, given one after the other, that make up a result
    recorded: bool = True  # a part of what a result was made with
    rare: bool = False  # --help-all shows it, --help does not
    panel: Panel | None = None  # of the help; else that of the class which declares the setting first

    name: str = ""
    kind: type = str
    many: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The flag as typed: `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def negation(self) -> str:
        """The flag that says no, empty where there is none: `--no-resume`."""
        deniable = self.kind is bool and (self.default is not False or self.optional)
        return f"--no-{self.flag[2:]}" if deniable else ""

    @property
    def yaml_keys(self) -> tuple[str, ...]:
        """Every key of a configuration file that means this setting."""
        return (self.name, *self.keys, *(flag.lstrip("-").replace("-", "_") for flag in self.flags))

    def problem(self, value: Any) -> str:
        """What is wrong with `value`, empty where nothing is: its type, its bounds, or a value given twice."""
        if value is None:
            return ""
        if self.many != isinstance(value, tuple):
            return f"must be {'a tuple' if self.many else 'a single value'}, got {value!r}"
        for item in value if self.many else (value,):
            if self.choices and item not in self.choices:
                return f"must be one of {', '.join(self.choices)}, got {item!r}"
            if not _is_a(item, self.kind):
                return f"must be {_WORDS.get(self.kind, self.kind.__name__)}, got {item!r}"
            if self.kind in (int, float):
                problem = self._out_of_bounds(item)
                if problem:
                    return problem
        twice = [item for item in value if value.count(item) > 1] if self.many and not self.repeats else []
        return f"names {twice[0]} twice" if twice else ""

    def _out_of_bounds(self, number: float) -> str:
        if isinstance(number, int) and abs(number) > LARGEST:
            return "must fit into 64 bits"
        if not math.isfinite(number):
            return f"must be finite, got {number}"
        if self.low is not None and number < self.low:
            return f"must be at least {self.low}, got {number}"
        if self.high is not None and number > self.high:
            return f"must be at most {self.high}, got {number}"
        if self.above is not None and number <= self.above:
            return f"must be greater than {self.above}, got {number}"
        return ""


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a setting's kind: whole numbers are numbers, true and false are none."""
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def setting(default: Any = None, help: str = "", **declared: Any) -> Any:
    """Declare a setting: its default, its help line, and what else the first part of `Spec` names."""
    return _field(Spec(default=default, help=help, **declared))


def like(owner: type[Settings], name: str, **changes: Any) -> Any:
    """Declare the setting `name` of another class again, with some of what it says changed."""
    return _field(dataclasses.replace(owner.__dataclass_fields__[name].metadata["spec"], **changes))


def _field(spec: Spec) -> Any:
    return dataclasses.field(default=spec.default, metadata={"spec": spec})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of every command's settings, which are checked wherever they are made.

    `explicit` names the settings that a flag or a variable of the environment gave, `brought` those that a checkpoint
    has brought, `standing` those that stand for every command of a project, with where that is said; a checkpoint's
    word comes before them. `checked` says that the user's wishes have been looked at. `dataclasses.replace` keeps all:
    what a command fills in itself is nobody's wish.
    """

    panel: ClassVar[Panel] = "What to do"
    # What words without a flag may stand for, by their number: `mcx curve eval CURVE` or `A B`.
    places: ClassVar[tuple[tuple[str, ...], ...]] = ()
    more: ClassVar[str] = (
        ""  # the setting that all words together are where there are more than any place has
    )

    explicit: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    brought: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    standing: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    checked: bool = dataclasses.field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for spec in specs(type(self)):
            value = getattr(self, spec.name)
            problem = spec.problem(value)
            if problem:
                raise SettingsError(f"{spec.name.upper() if spec.positional else spec.flag} {problem}")
            if spec.canonical is not None and value is not None:
                object.__setattr__(self, spec.name, spec.canonical(value))
        if not self.checked:
            self.check()
            object.__setattr__(self, "checked", True)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Mapping[str, str | list[str]]:
        """The settings that words without a flag give, by `places` and `more`.

        Raises SettingsError for more words, or fewer, than there are places for.
        """
        for places in cls.places:
            if len(places) == len(words):
                return dict(zip(places, words, strict=True))
        if cls.more and len(words) > max(map(len, cls.places)):
            return {cls.more: list(words)}
        counts = " or ".join(str(len(places)) for places in cls.places)
        files = "file" if counts == "1" else "files"
        output = any(spec.name == "output" for spec in specs(cls))
        fits = output and len(words) - 1 in map(len, cls.places)
        raise SettingsError(
            f"takes {counts} {files} without a flag, got {len(words)}: {', '.join(words)}",
            f"--output {words[-1]} says where the result goes" if fits else "",
        )

    def check(self) -> None:
        """Raise SettingsError for what is missing, and for what was given and has no effect.

        A class whose settings depend on each other adds its own rules. A command's own settings come first.
        """
        own = inspect.get_annotations(type(self))
        for spec in sorted(specs(type(self)), key=lambda spec: spec.name not in own):
            value = getattr(self, spec.name)
            replaced = spec.unless and getattr(self, spec.unless)
            if spec.missing is not None and value in (None, ()) and not replaced:
                raise SettingsError(*spec.missing)
            if spec.tensors and value is not None and value.suffix == ".safetensors":
                raise SettingsError(
                    f"'{value}': safetensors files are read, not written", "end the name in .pt"
                )
        idle = self.idle()
        for spec in specs(type(self)):
            if spec.name in idle and not spec.everywhere:
                self.refuse(idle[spec.name], spec.name)

    def refuse(self, where: str, *names: str) -> None:
        """Raise SettingsError for a setting that was given and has no effect `where` others are so, or the inputs."""
        for spec in specs(type(self)):
            if spec.name in names and self.was_given(spec.name):
                raise SettingsError(f"{spec.flag} has no effect {where}")

    def idle(self) -> dict[str, str]:
        """The settings that have no effect as the others are, each with where that is so: `with --pairs`.

        Results do not depend on them, so that a job goes on whatever they are. A class adds what cannot be declared.
        """
        typed = {s.name: s.name.upper() if s.positional else s.flag for s in specs(type(self))}
        out: dict[str, str] = {}
        for spec in specs(type(self)):
            if spec.unless and getattr(self, spec.unless):
                out[spec.name] = f"with {typed[spec.unless]}"
            if spec.needs:
                needed, *enough = spec.needs
                value = getattr(self, needed)
                if enough and value not in enough:
                    out[spec.name] = f"with {typed[needed]} {value}"
                elif not enough and not value:
                    out[spec.name] = f"without {typed[needed]}"
        return out

    def inputs(self) -> Iterator[Path]:
        """The files and folders that have to be there for a command to read them, as far as words alone tell."""
        for spec in self._read():
            yield from map(names.file_of, self._paths(spec))

    def files_read(self) -> Iterator[Path]:
        """The files that a result is made from, in the order of the settings that name them; what is in a folder,
        and files that add up to a result one after the other, the command itself keeps account of.
        """
        for spec in self._read():
            if not spec.adds_up:
                yield from (path for path in self._paths(spec) if names.file_of(path).is_file())

    def _read(self) -> list[Spec]:
        """The settings that name what is read."""
        idle = self.idle()
        return [s for s in specs(type(self)) if s.kind is Path and not s.absent and s.name not in idle]

    def _paths(self, spec: Spec) -> tuple[Path, ...]:
        value = getattr(self, spec.name)
        found = () if value is None else value if spec.many else (value,)
        return tuple(names.label_and_path(path)[1] for path in found) if spec.labelled else found

    def was_given(self, name: str) -> bool:
        """Whether a flag or a variable has given a setting, or a file or Python another value than its default."""
        if name in self.explicit:
            return True
        field = self.__dataclass_fields__[name]
        unwished = name in self.brought or name in self.standing or field.metadata["spec"].machine
        return not unwished and getattr(self, name) != field.default

    def with_brought(self, values: Mapping[str, Any]) -> Self:
        """Fill in what a checkpoint has brought."""
        return dataclasses.replace(self, **values, brought=self.brought | set(values))

    def without_standing(self) -> Self:
        """The settings without what stands for every command, where a checkpoint's word comes first."""
        default: dict[str, Any] = {name: self.__dataclass_fields__[name].default for name in self.standing}
        return dataclasses.replace(self, **default) if default else self

    def as_plain(self) -> dict[str, Any]:
        """Values as a YAML or JSON file holds them: paths as text, tuples as lists."""
        return {spec.name: plain(getattr(self, spec.name)) for spec in specs(type(self))}

    def recorded(self) -> dict[str, Any]:
        """The plain values without who shares the work, which is no part of a result."""
        return {s.name: plain(getattr(self, s.name)) for s in specs(type(self)) if s.recorded}

    def lasting(self) -> dict[str, Any]:
        """The plain values without what may change freely between runs: a result does not depend on it."""
        return {s.name: plain(getattr(self, s.name)) for s in specs(type(self)) if s.change != "free"}


def without_effect(condition: bool, where: str, *names: str) -> dict[str, str]:
    """Settings that are idle on a condition, as `Settings.idle` gives them."""
    return dict.fromkeys(names, where) if condition else {}


def plain(value: Any) -> Any:
    """Paths as text, tuples as lists, the home directory as `~`."""
    if isinstance(value, Path):
        return tilde(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def tilde(path: Path) -> str:
    """The path with the user's home directory written as `~`, so that records do not name people."""
    text = str(path)
    try:
        home = str(Path.home())
    except RuntimeError:
        return text
    if home not in ("", "/") and (text == home or text.startswith(home + "/")):
        return "~" + text[len(home) :]
    return text


_SPECS: dict[type[Settings], tuple[Spec, ...]] = {}


def specs(cls: type[Settings]) -> tuple[Spec, ...]:
    """The settings of a class in the order of their declaration."""
    if cls not in _SPECS:
        hints = typing.get_type_hints(cls)
        declared = [field for field in dataclasses.fields(cls) if "spec" in field.metadata]
        _SPECS[cls] = tuple(
            _completed(f.metadata["spec"], f.name, hints[f.name], _panel(cls, f.name)) for f in declared
        )
    return _SPECS[cls]


def _panel(cls: type[Settings], name: str) -> Panel:
    """The panel of the class that declares a setting first: others only say it more exactly."""
    first = next(base for base in reversed(cls.__mro__) if name in inspect.get_annotations(base))
    panel: Panel = vars(first).get("panel", Settings.panel)
    return panel


def _completed(spec: Spec, name: str, hint: Any, panel: Panel) -> Spec:
    """A declared setting with its name and what its type says: `tuple[int, ...] | None`, `Literal["a", "b"]`."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    many = typing.get_origin(hint) is tuple
    if many:
        hint = typing.get_args(hint)[0]
    choices: tuple[str, ...] = ()
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    panel = "Required" if spec.missing else spec.panel or panel
    return dataclasses.replace(
        spec, name=name, kind=hint, many=many, optional=optional, choices=choices, panel=panel
    )
