"""Generation by random decoders: a cache changes nothing, rows are apart, each setting is kept to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.types import Text, Tokens
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.generation.generate import generate, sampling_noise
from plugins.generation.settings import GeneratedText, Generation
from properties.drawing import PROFILE

PAD, START, END, LENGTH, DIM = 0, 1, 2, 20, 8
SEEDS = st.integers(0, 2**31)
MODES = st.sampled_from(["greedy", "sample", "beam"])


class Writer:
    """A random decoder and head in float64, sharp enough that texts differ and end, with pictures and prompts."""

    def __init__(self, seed: int, layout: str, unimodal: int, words: int, lengths: list[int]):
        torch.manual_seed(seed)
        self.words = words
        decoder = DecoupledDecoder(
            unimodal=unimodal,
            multimodal=1,
            layout=layout,  # type: ignore[arg-type]
            embed_dim=DIM,
            num_heads=2,
            cls=unimodal > 0,
            memory_dim=5,
            vocabulary=words,
            text_length=LENGTH,
        )
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.5)
        self.decoder, self.head = decoder.eval().double(), nn.Linear(DIM, words).double()
        nn.init.normal_(self.head.weight, std=1.0)
        mask = torch.rand(len(lengths), 6) < 0.8
        mask[:, 0] = True
        self.memory = Tokens(torch.randn(len(lengths), 6, 5, dtype=torch.float64), mask=mask)  # (B, N, 5)
        ids = torch.randint(3, words, (len(lengths), max(lengths)))  # (B, L)
        ids[:, 0] = START
        present = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        self.prompts = Text(ids.masked_fill(~present, PAD), present)
        self.numbers = sampling_noise(seed, range(len(lengths)), LENGTH)  # (B, LENGTH)

    def __repr__(self) -> str:
        return f"Writer of {self.words} words, prompts {self.prompts.ids.tolist()}"

    def write(self, chosen: Generation, rows: Tensor | None = None) -> list[GeneratedText]:
        rows = torch.arange(len(self.numbers)) if rows is None else rows
        memory, prompts, numbers = self.memory.rows(rows), self.prompts.rows(rows), self.numbers[rows]
        return generate(
            self.decoder, self.head, memory, prompts, chosen, end=END, pad=PAD, noise=numbers[:, : chosen.max_length]
        )


WRITERS = st.builds(
    Writer,
    SEEDS,
    st.sampled_from(["bert", "paper", "openclip"]),
    st.integers(0, 1),
    st.integers(4, 12),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)


@st.composite
def generations(draw: st.DrawFn, **fixed: Any) -> Generation:
    """Any settings; beams may be more than there are words."""
    longest = draw(st.integers(1, 8))
    drawn = {
        "mode": draw(MODES),
        "max_length": longest,
        "min_length": draw(st.integers(0, longest - 1)),
        "temperature": draw(st.floats(0.1, 3)),
        "top_k": draw(st.integers(0, 14)),
        "top_p": draw(st.floats(0.05, 1) | st.just(1.0)),
        "beams": draw(st.integers(1, 6)),
        "length_penalty": draw(st.floats(-2, 2)),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 0.7, 1.5])),
    }
    return Generation(**{**drawn, **fixed})


def ids(written: list[GeneratedText]) -> list[tuple[int, ...]]:
    return [text.ids for text in written]


def scores(written: list[GeneratedText]) -> Any:
    return pytest.approx([text.score for text in written], abs=1e-7)


@PROFILE
@given(writer=WRITERS, chosen=generations())
def test_a_cache_changes_nothing(writer, chosen):
    one, other = (writer.write(replace(chosen, cached=cached)) for cached in (True, False))
    assert ids(one) == ids(other)
    assert scores(one) == [text.score for text in other]


@PROFILE
@given(writer=WRITERS, chosen=generations(), data=st.data())
def test_rows_are_written_apart(writer, chosen, data):
    """In any order, with any others, or alone."""
    texts = writer.write(chosen)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=5), "rows")
    mixed = writer.write(chosen, torch.tensor(rows))
    assert ids(mixed) == [texts[row].ids for row in rows]
    assert scores(mixed) == [texts[row].score for row in rows]


@PROFILE
@given(writer=WRITERS, chosen=generations(mode="beam", beams=1))
def test_a_beam_of_one_is_greedy(writer, chosen):
    one, other = writer.write(chosen), writer.write(replace(chosen, mode="greedy"))
    assert ids(one) == ids(other)
    assert scores(one) == [text.score for text in other]


@PROFILE
@given(writer=WRITERS, chosen=generations(mode="sample"), narrow=st.sampled_from(["top_k", "top_p", "temperature"]))
def test_the_narrowest_draw_is_greedy(writer, chosen, narrow):
    value = {"top_k": 1, "top_p": 1e-9, "temperature": 1e-9}[narrow]
    assert ids(writer.write(replace(chosen, **{narrow: value}))) == ids(writer.write(replace(chosen, mode="greedy")))


@PROFILE
@given(writer=WRITERS, chosen=generations())
def test_lengths_are_within_their_bounds(writer, chosen):
    for text in writer.write(chosen):
        assert chosen.min_length <= len(text.ids) <= chosen.max_length
        assert END not in text.ids


@PROFILE
@given(writer=WRITERS, chosen=generations(), data=st.data())
def test_words_without_probability_never_appear(writer, chosen, data):
    banned = data.draw(st.sets(st.integers(3, writer.words - 1), max_size=writer.words - 4), "banned") | {PAD, START}
    with torch.no_grad():
        writer.head.bias[list(banned)] = -torch.inf
    texts = writer.write(replace(chosen, repetition_penalty=1.0))
    assert all(not banned & set(text.ids) for text in texts)
    assert all(text.score > -torch.inf for text in texts)


@PROFILE
@given(writer=WRITERS, chosen=generations(), mode=st.sampled_from(["greedy", "sample"]))
def test_what_is_written_stays_when_more_may_follow(writer, chosen, mode):
    """A text that ended does not change; one that was cut off goes on from where it was."""
    chosen = replace(chosen, mode=mode)
    short, long = writer.write(chosen), writer.write(replace(chosen, max_length=chosen.max_length + 5))
    for one, other in zip(short, long, strict=True):
        assert other.ids[: len(one.ids)] == one.ids
        if len(one.ids) < chosen.max_length:
            assert other.ids == one.ids
            assert other.score == pytest.approx(one.score, abs=1e-7)


@PROFILE
@given(writer=WRITERS, chosen=generations(repetition_penalty=1.0))
def test_a_score_is_the_log_probability_of_the_whole_text(writer, chosen):
    """Over its length, the end token's included, to the power of the penalty; by the decoder on the whole text."""
    with torch.no_grad():
        for row, text in enumerate(writer.write(chosen)):
            new = [*text.ids, *([END] if len(text.ids) < chosen.max_length else [])]
            prompt = writer.prompts.ids[row][writer.prompts.mask[row]].tolist()
            whole = torch.tensor([[*prompt, *new]])  # (1, S)
            memory = writer.memory.rows(slice(row, row + 1))
            states = writer.decoder(writer.decoder.encode_text(Text(whole, whole >= 0)), memory).x  # (1, S, D)
            logits = writer.head(states[0, len(prompt) - 1 : -1])  # (T, V)
            logits[: chosen.min_length, END] = -torch.inf
            total = logits.log_softmax(-1).gather(1, torch.tensor(new)[:, None]).sum()
            assert text.score == pytest.approx(float(total) / len(new) ** chosen.length_penalty, abs=1e-7)


@PROFILE
@given(writer=WRITERS, chosen=generations(mode="beam", repetition_penalty=1.0, length_penalty=0.0), more=SEEDS)
def test_the_widest_beam_is_at_least_as_likely_as_any_text(writer, chosen, more):
    """A beam as wide as the number of texts, which have at most two words, misses none."""
    chosen = replace(chosen, max_length=2, min_length=0, beams=writer.words**2)
    likeliest = writer.write(chosen)
    writer.numbers = sampling_noise(more, range(len(writer.numbers)), LENGTH)
    drawn = writer.write(replace(chosen, mode="sample", temperature=1.0, top_k=0, top_p=1.0))
    assert all(one.score >= other.score - 1e-7 for one, other in zip(likeliest, drawn, strict=True))


@settings(PROFILE, max_examples=100)
@given(data=st.data())
def test_settings_out_of_range_are_all_named(data):
    good = data.draw(generations())
    wrong = {"max_length": 0, "min_length": -1, "temperature": 0.0, "top_k": -1, "top_p": 1.5, "beams": 0}
    wrong |= {"length_penalty": 11.0, "repetition_penalty": -1.0}
    bad = data.draw(st.sets(st.sampled_from(list(wrong)), min_size=1))
    with pytest.raises(ValueError, match="it must be") as caught:
        replace(good, **{name: wrong[name] for name in bad})
    named = {name for name in wrong if f"{name} is " in str(caught.value)}
    assert bad <= named <= bad | {"min_length"}  # which is bounded by max_length
