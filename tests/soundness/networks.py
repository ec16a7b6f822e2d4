"""Networks made at random from short programs: layers, normalisations, branches, reshapes, shared weights, attention.

A program is a list of instructions (operation, which value, two numbers). Whatever does not apply to the value that it
is given is left out, so that every program makes a network and stays one when instructions are taken away.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from soundness.layers import Made, Network
from soundness.operations import OPERATIONS

LARGEST = 384  # entries of a value of one sample
STARTS = {"vector": (6,), "image": (3, 4, 4), "sequence": (4, 6), "tokens": (4,)}  # shapes of one sample
VOCABULARY = 9
NUMBERS = 12  # of an instruction's two
BATCH = 3

Instruction = tuple[str, int, int, int]


@dataclass(frozen=True)
class Program:
    start: str
    instructions: tuple[Instruction, ...]
    ending: int = 0

    def without(self, place: int) -> Program:
        return replace(self, instructions=self.instructions[:place] + self.instructions[place + 1 :])


class Generated(Network):
    """The network of a program. Parameters and buffers are random, in float64."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps: list[tuple[Made, tuple[int, ...]]] = []
        self.is_of_tokens = program.start == "tokens"
        values = [example(program)]
        for number, (name, back, b, c) in enumerate(program.instructions):
            self.prefix = f"{name}{number}"
            place = len(values) - 1 - back % min(len(values), 4)
            if name not in ("embedding",) and not values[place].is_floating_point():
                place = next((k for k, value in enumerate(values) if value.is_floating_point()), -1)
            found = None if place < 0 else OPERATIONS[name](self, values, place, b, c)
            if found is not None:
                self._take(values, *found)
        self._end(values, program.ending)
        self.double()
        randomise(self)

    def _take(self, values: list[Tensor], made: Made, places: tuple[int, ...]) -> None:
        with torch.no_grad():
            out = made(self, *(values[place] for place in places))
        if out.ndim >= 2 and len(out) == BATCH and 0 < out[0].numel() <= LARGEST:
            self.steps.append((made, places))
            values.append(out)

    def _end(self, values: list[Tensor], ending: int) -> None:
        """The sum of a linear layer over each value that nothing reads, over its entries or its mean; of some networks
        the last value itself is an output too.
        """
        read = {place for _, places in self.steps for place in places}
        leaves = [k for k, value in enumerate(values) if k not in read and value.is_floating_point()]
        raw, meant = ending % 4 == 3, ending % 4 > 0
        heads = []
        for place in leaves[:-1] if raw and len(leaves) > 1 else leaves:
            self.prefix = f"head{place}"
            heads.append(
                self.add(nn.Linear(values[place].shape[-1] if meant else values[place][0].numel(), 2))
            )

        def ended(m: Network, *found: Tensor) -> Tensor:
            each = [x.reshape(len(x), -1, x.shape[-1]).mean(1) if meant else x.flatten(1) for x in found]
            out = sum(getattr(m, name)(x) for name, x in zip(heads, each, strict=False))
            return torch.cat([out, found[-1].flatten(1)], 1) if raw else out

        self.steps.append((ended, tuple(leaves)))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for made, places in self.steps:
            values.append(made(self, *(values[place] for place in places)))
        return values[-1]


def example(program: Program, seed: int = 0, samples: int = BATCH) -> Tensor:
    """Inputs of a program's network."""
    draw = torch.Generator().manual_seed(seed)
    shape = (samples, *STARTS[program.start])
    if program.start == "tokens":
        return torch.randint(VOCABULARY, shape, generator=draw)
    return torch.randn(shape, generator=draw)


def randomise(model: nn.Module) -> None:
    """Numbers of size one divided by the root of what is summed; variances are positive."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
            summed = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            tensor.copy_(noise.abs() + 0.3 if "running_var" in name else noise / summed**0.5)


def programs(most: int = 10) -> st.SearchStrategy[Program]:
    """Programs of one to `most` instructions, which become shorter and smaller where a test fails."""
    number = st.integers(0, NUMBERS - 1)
    instruction = st.tuples(st.sampled_from(sorted(OPERATIONS)), number, number, number)
    return st.builds(
        Program,
        st.sampled_from(sorted(STARTS)),
        st.lists(instruction, min_size=1, max_size=most).map(tuple),
        number,
    ).map(embedded)


def drawn(number: int, most: int = 12) -> Program:
    """The program of a number, the same on every machine."""
    draw = random.Random(number)
    start = draw.choice(sorted(STARTS))
    names = sorted(OPERATIONS)
    # Layers come as often as everything else: without them there is nothing to permute.
    layers = ["linear", "linear", "convolution", "norm", "activation", "residual", "attention"]
    made = [
        (draw.choice(layers if draw.random() < 0.5 else names), *(draw.randrange(NUMBERS) for _ in range(3)))
        for _ in range(draw.randint(2, most))
    ]
    return embedded(Program(start, tuple(made), draw.randrange(NUMBERS)))


def embedded(program: Program) -> Program:
    """Tokens are embedded first."""
    if program.start != "tokens":
        return program
    return replace(program, instructions=(("embedding", 0, 4, 0), *program.instructions))


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """The program with as few instructions as still fail, and their numbers as small."""
    while True:
        found = _with_smaller_numbers(_with_fewer(program, fails), fails)
        if found == program:
            return program
        program = found


def _with_fewer(program: Program, fails: Callable[[Program], bool]) -> Program:
    for place in reversed(range(len(program.instructions))):
        if fails(shorter := program.without(place)):
            program = shorter
    return program


def _with_smaller_numbers(program: Program, fails: Callable[[Program], bool]) -> Program:
    for place in range(len(program.instructions)):
        for k in (1, 2, 3):
            changed = list(program.instructions[place])
            changed[k] = 0
            instructions = list(program.instructions)
            instructions[place] = (str(changed[0]), *map(int, changed[1:]))
            tried = replace(program, instructions=tuple(instructions))
            if tried != program and fails(tried):
                program = tried
    return program
