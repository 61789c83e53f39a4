"""Blocks with pruners between and within them, on blocks whose arithmetic can be followed by hand."""

from __future__ import annotations

import pytest
import torch

from core.blocks import between_attention_and_mlp, first_pruned_block, prune, run_blocks, score
from core.kinds import TokenPruner
from core.types import BlockCues, Tokens
from plugins.pruners.prune_list import Prune, build_pruners
from registry.part import Part, PartError


class Digit:
    """A block that appends a digit to each state: attention multiplies by ten, the MLP adds the digit."""

    def __init__(self, digit):
        self.digit = digit

    def __call__(self, x, mask):
        return self.mlp(self.attend(x, mask))

    def attend(self, x, mask):
        return 10 * x

    def mlp(self, x):
        return x + self.digit

    def attention_maps(self, x, mask):
        return x[:, None] + self.digit, torch.ones(len(x), 1, x.shape[1], x.shape[1])


class DropLast(TokenPruner):
    """Drops the last patch; its logits are the states plus the guide."""

    def __init__(self, *, dim: int = 1, guide_dim: int = 1):
        super().__init__()
        self.inputs = []

    def score(self, tokens, guide, cues):
        return tokens.patch_states[..., 0] + (0 if guide is None else guide)

    def forward(self, tokens, guide, cues):
        self.inputs.append(tokens.x[0, 0, 0].item())
        count = tokens.patches[1] - tokens.patches[0]
        scores = self.score(tokens, guide, cues)
        return tokens.keep(torch.arange(count - 1).expand(len(tokens.x), -1), scores=scores)


class Inside(DropLast):
    place = "in_block"

    def score(self, tokens, guide, cues):
        return cues.keys[:, 0, tokens.patches[0] : tokens.patches[1], 0]


class Return(TokenPruner):
    """Returns whatever it is given."""

    def __init__(self, result):
        super().__init__()
        self.result, self.origin = result, "token pruner 'return' (plugin x)"

    def forward(self, tokens, guide, cues):
        return self.result


BLOCKS = [Digit(1), Digit(2), Digit(3)]


def tokens(count: int = 4) -> Tokens:
    return Tokens(torch.zeros(1, count, 1), patches=(1, count))


def test_blocks_run_in_order():
    assert run_blocks(BLOCKS, {}, tokens()).x.flatten().tolist() == [123] * 4


@pytest.mark.parametrize(("first", "last", "value"), [(0, 1, 1), (1, None, 23), (1, 2, 2), (2, 3, 3), (3, None, 0)])
def test_a_range_of_blocks(first, last, value):
    assert run_blocks(BLOCKS, {}, tokens(), first=first, last=last).x[0, 0, 0] == value


@pytest.mark.parametrize(("block", "value"), [(1, 1), (2, 12), (3, 123)])
def test_a_pruner_acts_after_its_block(block, value):
    pruner = DropLast()
    assert run_blocks(BLOCKS, {block: pruner}, tokens()).x.flatten().tolist() == [123] * 3
    assert pruner.inputs == [value]


@pytest.mark.parametrize(("block", "value"), [(1, 0), (2, 10), (3, 120)])
def test_a_pruner_acts_between_attention_and_mlp(block, value):
    pruner = Inside()
    result = run_blocks(BLOCKS, {block: pruner}, tokens())
    assert result.x.flatten().tolist() == [123] * 3
    assert pruner.inputs == [value]
    assert result.scores.flatten().tolist() == [int("0123"[:block]) + block] * 3  # keys of the block's input


@pytest.mark.parametrize("kind", [DropLast, Inside])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_stopping_at_the_first_pruner_and_going_on_equals_one_pass(kind, block):
    pruners = {block: kind()}
    split = first_pruned_block(pruners, 3)
    trunk = run_blocks(BLOCKS, {}, tokens(), last=split)
    assert torch.equal(run_blocks(BLOCKS, pruners, trunk, first=split).x, run_blocks(BLOCKS, pruners, tokens()).x)
    expected = run_blocks(BLOCKS, pruners, tokens()).scores
    assert torch.equal(score(BLOCKS, pruners, trunk, first=split), expected)


def test_the_first_pruned_block():
    assert first_pruned_block({}, 12) == 12
    assert first_pruned_block({4: DropLast(), 8: DropLast()}, 12) == 4
    assert first_pruned_block({4: Inside(), 8: DropLast()}, 12) == 3


def test_a_guide_may_be_a_function_of_the_sequence():
    pruned = run_blocks(BLOCKS, {1: DropLast()}, tokens(), guide=lambda t: t.x[:, 0])
    assert pruned.scores.tolist() == [[2, 2, 2]]  # state 1 + guide 1
    assert score(BLOCKS, {1: DropLast()}, tokens(), torch.tensor([[5.0]])).tolist() == [[6, 6, 6]]
    assert score(BLOCKS, {}, tokens()) is None


def test_cues_are_those_of_the_block_s_input():
    before = tokens()
    after, cues = between_attention_and_mlp(Digit(7), Tokens(before.x + 2))
    assert after.x.flatten().tolist() == [20] * 4
    assert cues.keys.flatten().tolist() == [9] * 4


@pytest.mark.parametrize("places", [[2, 2], [1, 4]])
def test_pruners_at_one_block_or_after_the_last_are_an_error(places):
    entries = [Prune(place, Part(DropLast)) for place in places]
    with pytest.raises(ValueError, match=r"expected different blocks between 1 and depth 3"):
        build_pruners(entries, 3, 1, 1)


def test_pruners_are_ordered_by_block():
    assert list(build_pruners([Prune(10, Part(DropLast)), Prune(2, Part(DropLast))], 12, 1, 1)) == ["2", "10"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(1, 3, 1), r"returned Tensor instead of Tokens; return tokens\.keep\(index\)"),
        (Tokens(torch.zeros(1, 3, 2), patches=(1, 3)), r"returned states of shape \(1, 3, 2\); expected \(1, tokens"),
        (Tokens(torch.zeros(2, 3, 1), patches=(1, 3)), r"returned states of shape \(2, 3, 1\); expected \(1, tokens"),
        (Tokens(torch.zeros(1, 3, 1), patches=(0, 3)), r"returned patches \(0, 3\) of 3 tokens: only patches may be"),
        (Tokens(torch.zeros(1, 3, 1), patches=(1, 4)), r"returned patches \(1, 4\) of 3 tokens: only patches may be"),
        (
            Tokens(torch.zeros(1, 3, 1), patches=(1, 3), scores=torch.zeros(1, 2)),
            r"returned scores of shape \(1, 2\); expected \(1, 3\)",
        ),
    ],
)
def test_a_result_that_is_no_shortened_sequence_names_the_pruner(result, message):
    with pytest.raises(PartError, match=r"^token pruner 'return' \(plugin x\): " + message):
        prune(Return(result), tokens(), None, BlockCues())
