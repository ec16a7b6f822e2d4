"""Networks that are called with tokens, or with what their own `example_input()` gives: no word about images."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

NETWORKS = '''
import torch
import torch.nn.functional as F
from torch import nn

class Block(nn.Module):
    def __init__(self, width, heads, context, masked):
        super().__init__()
        self.heads, self.masked = heads, masked
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if masked:
            self.register_buffer("mask", torch.ones(context, context).tril())

    def forward(self, x):
        B, T, C = x.shape
        parts = self.qkv(self.ln1(x)).chunk(3, 2)
        q, k, v = (each.view(B, T, self.heads, C // self.heads).transpose(1, 2) for each in parts)
        if self.masked:
            scores = (q @ k.transpose(2, 3) / 2).masked_fill(self.mask[:T, :T] == 0, float("-inf"))
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.ln2(x))))

class Language(nn.Module):
    """Eleven tokens, eight places, three heads of four."""

    def __init__(self, masked=False, tied=False):
        super().__init__()
        self.token, self.position = nn.Embedding(11, 12), nn.Embedding(8, 12)
        self.blocks = nn.ModuleList(Block(12, 3, 8, masked) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 11, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

class Two(nn.Module):
    """Floats beside a number of a table."""

    def __init__(self):
        super().__init__()
        self.a, self.e, self.out = nn.Linear(5, 7), nn.Embedding(4, 7), nn.Linear(7, 2)

    def example_input(self):
        return torch.zeros(2, 5), torch.zeros(2, dtype=torch.long)

    def forward(self, x, t):
        return self.out((self.a(x) + self.e(t)).relu())
'''
TOKENS = ("--model", "networks_of_tokens:Language", "--input-tokens", "6")
AGAIN = TOKENS[:2]  # the checkpoint says the rest
KINDS = {"": (), "masked": ("--model-arg", "masked=True"), "tied": ("--model-arg", "tied=True")}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "networks_of_tokens.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "networks_of_tokens", raising=False)
    return importlib.import_module("networks_of_tokens")


def trained(model: nn.Module, file: str, seed: int = 0) -> dict[str, Tensor]:
    """A language model after some steps on counting: the next token is the sum of the last two."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        tokens = torch.randint(11, (32, 7))
        for place in range(2, 7):
            tokens[:, place] = (tokens[:, place - 1] + tokens[:, place - 2]) % 11
        loss = nn.functional.cross_entropy(model(tokens[:, :6]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with Path(file).open("wb") as stream:
        torch.save(model.state_dict(), stream)
    return model.state_dict()


def gap(model: nn.Module, one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest relative difference of the logits in float64, for sequences of all lengths."""
    outputs = []
    for state in (one, other):
        model.load_state_dict(state)
        model.double().eval()
        torch.manual_seed(1)
        sequences = [torch.randint(11, (50, length)) for length in range(1, 9)]
        with torch.no_grad():
            outputs.append(torch.cat([model(tokens).flatten() for tokens in sequences]))
    return float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())


def state_of(file: str) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["model_state"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_of_a_language_model_is_permuted_and_the_next_commands_need_no_flag(
    mcx, own: ModuleType, kind: str
) -> None:
    words = KINDS[kind]
    make = lambda: own.Language(**{kind: True} if kind else {})  # noqa: E731
    state = trained(make(), "a.pt")
    done = mcx("swap", "--checkpoint", "a.pt", *TOKENS, *words, "--random", "--output", "s.pt")
    assert done.code == 0, done.err
    assert "130 units in 9 groups" in done.err
    said = torch.load("s.pt", weights_only=True)["mcx"]
    assert (said["input_tokens"], "input_shape" in said) == (6, False)
    swapped = state_of("s.pt")
    moved = [name for name in state if not torch.equal(state[name], swapped[name])]
    assert set(state) - set(moved) == ({f"blocks.{k}.mask" for k in (0, 1)} if kind == "masked" else set())
    assert gap(make(), state, swapped) < 1e-9
    assert gap(make(), state, {**swapped, "position.weight": state["position.weight"]}) > 1e-3
    found = json.loads(mcx("info", "s.pt", *AGAIN, "--symmetries", "--json").out)["symmetries"]
    assert (found["units"], found["input_tokens"], found["input_shape"]) == (130, 6, None)
    done = mcx("swap", "--checkpoint", "s.pt", *AGAIN, "--layer-name", "blocks.1.up", "--output", "t.pt")
    assert done.code == 0, done.err
    assert gap(make(), state, state_of("t.pt")) < 1e-9


def test_a_language_model_whose_units_were_permuted_comes_back(mcx, own: ModuleType) -> None:
    state = trained(own.Language(), "a.pt")
    assert mcx("swap", "--checkpoint", "a.pt", *TOKENS, "--random", "--output", "s.pt").code == 0
    done = mcx("align", "s.pt", "--to", "a.pt", *TOKENS, "--output", "back.pt", "--json")
    assert done.code == 0, done.err
    aligned = json.loads(done.out)["aligned"]["s"]
    assert aligned["before"]["total_l2"] > 1
    assert aligned["after"]["total_l2"] < 1e-5
    back = state_of("back.pt")
    assert all(torch.allclose(state[name], back[name]) for name in state)
    assert torch.load("back.pt", weights_only=True)["mcx"]["input_tokens"] == 6
    done = mcx("l2", "a.pt", "s.pt", *TOKENS, "--modulo-permutation")
    assert "Total L2 with the swap undone: 0.000000" in done.out


def test_a_network_says_itself_what_it_is_called_with(mcx, own: ModuleType) -> None:
    torch.manual_seed(0)
    with Path("a.pt").open("wb") as stream:
        torch.save(own.Two().state_dict(), stream)
    words = ("--model", "networks_of_tokens:Two", "--random")
    for before, after in (("a.pt", "b.pt"), ("b.pt", "c.pt")):
        done = mcx("swap", "--checkpoint", before, *words, "--output", after)
        assert done.code == 0, done.err
    model = own.Two().double()
    x, t = torch.randn(4, 5, dtype=torch.float64), torch.arange(4)
    outputs = []
    for state in (torch.load("a.pt", weights_only=True), state_of("b.pt"), state_of("c.pt")):
        model.load_state_dict(state)
        outputs.append(model(x, t))
    assert torch.allclose(outputs[0], outputs[1], rtol=0, atol=1e-12)
    assert torch.allclose(outputs[0], outputs[2], rtol=0, atol=1e-12)
    assert not torch.equal(state_of("b.pt")["e.weight"], state_of("c.pt")["e.weight"])


REFUSED = {
    "no number of tokens": (AGAIN, 3, "--input-tokens L"),
    "more tokens than places": ((*AGAIN, "--input-tokens", "9"), 3, "fails on inputs (3, 9): IndexError"),
    "a shape of images too": (
        (*TOKENS, "--input-shape", "1,8,8"), 2, "--input-shape has no effect with --input-tokens",
    ),
    "a size of images too": ((*TOKENS, "--image-size", "8"), 2, "--image-size has no effect with --input-tokens"),
    "images of a data set": (
        (*TOKENS, "--dataset", "digits"), 2, "--input-tokens has no effect with a data set, of images",
    ),
    "no tokens at all": ((*AGAIN, "--input-tokens", "0"), 2, "--input-tokens must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_tokens_is_refused(mcx, own: ModuleType, what: str) -> None:
    words, code, message = REFUSED[what]
    with Path("a.pt").open("wb") as stream:
        torch.save(own.Language().state_dict(), stream)
    done = mcx("swap", "--checkpoint", "a.pt", *words, "--output", "s.pt")
    assert (done.code, done.out, message in done.err) == (code, "", True), done.err
    assert not Path("s.pt").exists()


def test_a_checkpoint_that_was_trained_on_images_takes_no_tokens(mcx, networks: Path, tmp_path: Path) -> None:
    path = networks / "seed0/checkpoint-4.pt"
    done = mcx("swap", "--checkpoint", path, "--input-tokens", "6", "--output", tmp_path / "s.pt")
    assert (done.code, "was trained on images (1, 8, 8)" in done.err) == (3, True)


def test_a_checkpoint_of_tokens_takes_no_images(mcx, own: ModuleType) -> None:
    with Path("a.pt").open("wb") as stream:
        torch.save(own.Language().state_dict(), stream)
    assert mcx("swap", "--checkpoint", "a.pt", *TOKENS, "--random", "--output", "s.pt").code == 0
    done = mcx("swap", "--checkpoint", "s.pt", *AGAIN, "--dataset", "digits", "--output", "t.pt")
    assert (done.code, "the network takes 6 tokens, not images (1, 8, 8)" in done.err) == (3, True)


def test_a_project_may_say_how_many_tokens(mcx, own: ModuleType) -> None:
    with Path("a.pt").open("wb") as stream:
        torch.save(own.Language().state_dict(), stream)
    Path("mcx.yaml").write_text("model: networks_of_tokens:Language\ninput_tokens: 5\n")
    done = mcx("info", "a.pt", "--symmetries", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["symmetries"]["input_tokens"] == 5


def test_of_distances_only_one_follows_the_graph(mcx, own: ModuleType) -> None:
    with Path("a.pt").open("wb") as stream:
        torch.save(own.Language().state_dict(), stream)
    done = mcx("l2", "a.pt", "a.pt", *TOKENS)
    assert (done.code, done.out) == (2, "")
    assert "--input-tokens has no effect without permuted units" in done.err


@pytest.mark.parametrize("command", ["train", "csl score", "curve train", "dormant"])
def test_commands_that_need_images_have_no_such_flag(mcx, command: str) -> None:
    done = mcx(*command.split(), "--input-tokens", "6")
    assert done.code == 2
    assert "unknown option '--input-tokens'" in done.err
