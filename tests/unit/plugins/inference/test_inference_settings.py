"""Mode and length of captions that the user did not set, and the room that a prompt leaves."""

from __future__ import annotations

import re

import pytest
import small
from small_coca import SOURCE, coca
from tiny import TinyTokenizer, tiny_model

from plugins.generation.settings import Generation
from plugins.inference.settings import DEFAULT_MAX_TOKENS, MODES, generation_settings, max_generated_tokens


@pytest.mark.parametrize(("name", "mode"), list(MODES.items()))
def test_a_setting_of_one_mode_implies_it(name, mode):
    settings = generation_settings({name: 1}, 40)
    assert settings == Generation(**{name: 1, "mode": mode, "max_length": 30})


@pytest.mark.parametrize("name", ["max_length", "length_penalty", "repetition_penalty", "cached"])
def test_settings_of_every_mode_leave_it_greedy(name):
    assert generation_settings({name: 1}, 40).mode == "greedy"


@pytest.mark.parametrize(("room", "length"), [(-3, 1), (0, 1), (1, 1), (29, 29), (30, 30), (31, 30), (500, 30)])
def test_the_default_length_is_the_room_up_to_thirty(room, length):
    assert DEFAULT_MAX_TOKENS == 30
    assert generation_settings({}, room).max_length == length
    assert generation_settings({"max_length": 50}, room).max_length == 50  # the user's own is checked by the decoder


def test_a_mode_given_resolves_the_conflict():
    both = {"beams": 2, "top_k": 3}
    with pytest.raises(ValueError, match=r"^beams is for a beam search, top_k for draws: give one, or the mode$"):
        generation_settings(both, 40)
    for mode in ("greedy", "sample", "beam"):
        assert generation_settings({**both, "mode": mode}, 40) == Generation(mode=mode, max_length=30, **both)


def test_an_unknown_setting_has_a_near_match_and_the_list():
    with pytest.raises(ValueError, match=r"^no setting 'temprature'\. Did you mean 'temperature'\? There are: mode, "):
        generation_settings({"temprature": 1}, 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "best"}, "mode is 'best'; it must be one of greedy, sample, beam"),
        ({"max_length": 0}, "max_length is 0; it must be at least 1"),
        ({"min_length": 30}, "min_length is 30; it must be from 0 to below max_length, 30"),
        ({"min_length": -1}, "min_length is -1; it must be from 0"),
        ({"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"temperature": float("nan")}, "temperature is nan; it must be above 0"),
        ({"top_k": -1}, "top_k is -1; it must be 0 (all words) or more"),
        ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01; it must be above 0 and at most 1"),
        ({"beams": 0}, "beams is 0; it must be at least 1"),
        ({"length_penalty": 10.5}, "length_penalty is 10.5; it must be from -10 to 10"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be from -10 to 10"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be above 0"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        generation_settings(settings, 40)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ValueError, match=r"^top_k is -1; .*; top_p is 2; .*; beams is 0; it must be at least 1$"):
        Generation(top_k=-1, top_p=2, beams=0)


def test_with_a_fusion_prompts_take_no_room():
    model = small.copa(SOURCE)
    assert model.fusion is not None
    for prompt in ("", "a red star left of a blue disc"):
        assert max_generated_tokens(model, SOURCE.tokenizer, 7, [prompt]) == model.decoder.text_length


@pytest.mark.parametrize("words", range(4))
def test_without_a_fusion_the_longest_prompt_takes_room(words):
    model = coca()
    prompts = ["", " ".join(["red"] * words)]
    length = model.decoder.text_length
    # [CLS] and the words are decoded, and the last generated token is not
    assert max_generated_tokens(model, SOURCE.tokenizer, length, prompts) == length - (1 + words) + 1


def test_a_prompt_as_long_as_the_model_is_refused():
    model = tiny_model(joined=False)  # no decoder with its own length: the given one counts
    tokenizer = TinyTokenizer()
    assert max_generated_tokens(model, tokenizer, 6, ["red blue"]) == 6 - 3 + 2
    message = "a prompt is too long for a model that reads 3 tokens: with its ends it may be 2"
    with pytest.raises(ValueError, match=f"^{message}$"):
        max_generated_tokens(model, tokenizer, 3, ["red", "red blue"])
