"""Is every group of units that is found in a network a symmetry of it? `make soundness N=10000`.

Each group is permuted at random, alone and with all others, units within blocks in every block otherwise, and the
outputs are compared in float64. So that such a comparison says something, a tensor of each group is permuted without
its others too, which has to change the outputs. A network is known by its number:
`python -m soundness.check 1 --first 4711`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.networks.inputs import Tokens
from modeconn_cli.engine.symmetry import Group, Symmetry, find, permute
from modeconn_cli.engine.symmetry.groups import Places
from modeconn_cli.engine.symmetry.permutation import identity, random_order
from soundness.networks import STARTS, Generated, Program, drawn, example, shrunk

ORDER = 1e-9  # of the largest output, what the order of sums explains
SAMPLES = 7


@dataclass
class Verdict:
    """What came of one network."""

    groups: int = 0
    units: int = 0
    nested: int = 0  # groups within blocks
    refused: Counter[str] = field(default_factory=Counter)  # layers without a group, by their reason
    unsound: str = ""
    untraced: str = ""
    not_finite: bool = False
    seen: int = 0  # groups of two tensors or more of which one alone changes the outputs
    joined: int = 0  # groups of two tensors or more


def symmetry_of(model: Generated, program: Program) -> Symmetry:
    shape = STARTS[program.start]
    return find(trace(model, Tokens(model, *shape) if model.is_of_tokens else shape))


def check(program: Program, seed: int = 0) -> Verdict:
    """Make the network of a program, find its groups, and compare."""
    model = Generated(program)
    verdict = Verdict()
    try:
        symmetry = symmetry_of(model, program)
    except InputError as error:
        verdict.untraced = kind(str(error))
        return verdict
    verdict.refused = Counter(kind(reason) for reason in symmetry.fixed.values())
    verdict.groups = len(symmetry.groups)
    verdict.units = sum(group.size for group in symmetry.groups)
    verdict.nested = sum(group.within is not None for group in symmetry.groups)
    if not symmetry.groups:  # as of a shrunk network that gives the tokens it is given
        return verdict
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = example(program, seed + 1, SAMPLES)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    before = outputs(model, state, inputs)
    if not before.isfinite().all():
        verdict.not_finite = True
        return verdict
    rng = np.random.default_rng(seed)
    orders = {group: shuffled(group, rng) for group in symmetry.groups}
    for names, some in (
        *((f"{group.layer} ({group.size} units)", {group: order}) for group, order in orders.items()),
        ("all groups", orders),
    ):
        off = difference(model, state, some, inputs, before)
        if not off <= ORDER:
            verdict.unsound = f"{names}: outputs differ by {off:.2g} of the largest"
            break
    for group, order in orders.items():
        tensors = {move.tensor for move in group.moves}
        verdict.joined += len(tensors) > 1
        verdict.seen += len(tensors) > 1 and seen(model, state, group, order, inputs, before)
    return verdict


def outputs(model: Generated, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    model.load_state_dict(state)
    with torch.no_grad():
        return model.eval()(inputs)


def difference(
    model: Generated,
    state: Mapping[str, Tensor],
    orders: Mapping[Group, Places],
    inputs: Tensor,
    before: Tensor,
) -> float:
    """max |f(changed) − f(original)| / max |f(original)|. Raises AssertionError where other tensors have changed."""
    changed = permute(state, orders)
    declared = {move.tensor for group in orders for move in group.moves}
    assert {name for name in state if not torch.equal(changed[name], state[name])} <= declared
    after = outputs(model, changed, inputs)
    scale = float(before.abs().max())
    return float((after - before).abs().max()) / scale if scale else float((after - before).abs().max())


def seen(
    model: Generated,
    state: Mapping[str, Tensor],
    group: Group,
    order: Places,
    inputs: Tensor,
    before: Tensor,
) -> bool:
    """Whether a tensor of a group that is permuted without the others changes the outputs."""
    changed = permute(state, {group: order})
    for name in dict.fromkeys(move.tensor for move in group.moves):
        after = outputs(model, {**state, name: changed[name]}, inputs)
        if float((after - before).abs().max()) > ORDER * float(before.abs().max()):
            return True
    return False


def shuffled(group: Group, rng: np.random.Generator) -> Places:
    """A random order that is not the identity."""
    order = random_order(group, rng)
    return order if not np.array_equal(order, identity(group)) else order[..., ::-1]


def kind(reason: str) -> str:
    """A reason without the place in the source and without numbers of the network at hand."""
    return re.sub(r"\d+", "N", re.sub(r" \(.*?\.py:\d+: .*\)", "", reason.splitlines()[0]))


@dataclass
class Report:
    networks: int = 0
    with_groups: int = 0
    groups: int = 0
    units: int = 0
    nested: int = 0
    not_finite: int = 0
    joined: int = 0
    seen: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    untraced: Counter[str] = field(default_factory=Counter)
    unsound: dict[int, str] = field(default_factory=dict)

    def take(self, number: int, verdict: Verdict) -> None:
        self.networks += 1
        self.with_groups += verdict.groups > 0
        self.groups += verdict.groups
        self.units += verdict.units
        self.nested += verdict.nested
        self.not_finite += verdict.not_finite
        self.joined += verdict.joined
        self.seen += verdict.seen
        self.refused += verdict.refused
        if verdict.untraced:
            self.untraced[verdict.untraced] += 1
        if verdict.unsound:
            self.unsound[number] = verdict.unsound

    def lines(self) -> list[str]:
        return [
            f"{self.networks:,} networks, {self.with_groups:,} of them with groups: {self.groups:,} groups of "
            f"{self.units:,} units, {self.nested:,} of them within blocks; {self.not_finite:,} not compared, as their "
            "outputs overflow",
            f"of {self.joined:,} groups of several tensors {self.seen:,} are seen where one of these is permuted alone",
            f"unsound: {len(self.unsound)}",
            *(f"  {number}: {what}" for number, what in self.unsound.items()),
            "networks without any group, by reason:",
            *(f"  {count:8,}  {reason}" for reason, count in self.untraced.most_common()),
            "layers whose units stay, by reason:",
            *(f"  {count:8,}  {reason}" for reason, count in self.refused.most_common()),
        ]


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("number", type=int, help="networks")
    words.add_argument("--first", type=int, default=0, help="number of the first")
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    torch.set_num_threads(1)
    report, begin = Report(), time.monotonic()
    for number in range(asked.first, asked.first + asked.number):
        report.take(number, check(drawn(number), number))
        if report.networks % 500 == 0:
            took = time.monotonic() - begin
            print(f"{report.networks:,} networks, {len(report.unsound)} unsound, {took:.0f} s", flush=True)
    print("\n".join(report.lines()))
    for number in list(report.unsound)[:5]:
        smallest = shrunk(drawn(number), lambda program, seed=number: bool(check(program, seed).unsound))
        print(f"smallest of {number}: {smallest}\n  {check(smallest, number).unsound}")
    if asked.json:
        asked.json.write_text(json.dumps({**vars(report)}))
    return 1 if report.unsound else 0


if __name__ == "__main__":
    sys.exit(main())
