"""Features for metrics: full precision under autocast, chunks, and the guide of matching."""

from __future__ import annotations

import pytest
import torch
from evaluations import evaluation as evaluation_of
from small_coca import SOURCE, coca
from tiny import TinyData, tiny_model

from core.runtime import autocast
from core.types import Tokens
from plugins.metrics.features import cosines, features, image_features, match_log_odds, text_features

CPU = torch.device("cpu")


def evaluation(model=None, data=None, **options):
    return evaluation_of(model or tiny_model(), data or TinyData(), **{"batch": 4, **options})


def test_cosines_are_of_images_by_texts():
    images = torch.nn.functional.normalize(torch.randn(3, 5), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(4, 5), dim=1)
    got = cosines(images, texts)
    assert got.shape == (3, 4)
    expected = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=2)
    assert torch.allclose(got, expected, atol=1e-6)
    assert torch.allclose(cosines(images, images).diagonal(), torch.ones(3))


def test_no_rows_no_cosines():
    assert cosines(torch.zeros(0, 5), torch.zeros(4, 5)).shape == (0, 4)


def test_cosines_stay_in_full_precision_under_autocast():
    images, texts = torch.randn(6, 64), torch.randn(6, 64)
    with autocast(CPU, "bf16"):
        assert (images @ texts.T).dtype == torch.bfloat16
        got = cosines(images, texts)
    assert got.dtype == torch.float32
    assert torch.equal(got, cosines(images, texts))


@torch.no_grad()
def test_features_of_rounded_states_are_projected_in_full_precision():
    model = tiny_model()
    pooled = torch.randn(5, 16).bfloat16()
    with autocast(CPU, "bf16"):
        got = features(model, "image", Tokens(pooled[:, None], pooled))
    assert got.dtype == torch.float32
    assert torch.equal(got, model.heads["image"](pooled.float()))
    assert torch.allclose(got.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
@torch.no_grad()
def test_chunks_do_not_change_features(batch):
    model = tiny_model()
    asked = evaluation(model, batch=batch)
    examples = asked.examples("test", 7)
    texts = [example.caption for example in examples]
    images = torch.stack([example.image for example in examples])
    whole = model.heads["image"](model.encode_image(model.trunk(images)).pooled)
    assert torch.allclose(image_features(asked, examples), whole, atol=1e-6)
    whole = model.heads["text"](model.encode_text(asked.data.tokenizer(texts)).pooled)
    assert torch.allclose(text_features(asked, texts), whole, atol=1e-6)


@torch.no_grad()
def test_texts_of_a_model_without_text_encoder_are_encoded_by_the_decoder():
    model = coca()
    assert model.text is None
    asked = evaluation(model, SOURCE, batch=2)
    texts = ["a red star", "a blue disc", ""]
    got = text_features(asked, texts)
    for row, text in zip(got, texts, strict=True):
        alone = model.heads["text"](model.decoder.encode_text(SOURCE.tokenizer([text])).pooled)[0]
        assert torch.allclose(row, alone, atol=1e-5)  # padding to the longest text has no effect


@torch.no_grad()
def test_images_are_pruned_under_the_null_guide():
    asked = evaluation()
    model, examples = asked.model, asked.examples("test", 3)
    trunk = model.trunk(asked.images(examples))
    got = image_features(asked, examples)
    words = model.encode_text(asked.data.tokenizer([example.caption for example in examples]))
    guided = features(model, "image", model.encode_image(trunk, words.pooled))
    assert torch.allclose(got, features(model, "image", model.encode_image(trunk)), atol=1e-6)
    assert not torch.allclose(got, guided, atol=1e-4)


@torch.no_grad()
def test_log_odds_are_the_logit_of_the_probability_and_do_not_saturate():
    asked = evaluation()
    model, examples = asked.model, asked.examples("test", 4)
    words = model.encode_text(asked.data.tokenizer([example.caption for example in examples]))
    trunk = model.trunk(asked.images(examples))
    odds = match_log_odds(model, trunk, words)
    image = model.encode_image(trunk, words.pooled)
    probability = model.heads["match"](model.fusion(words, image).text.x[:, 0]).softmax(1)[:, 1]
    assert torch.allclose(odds, probability.logit(), atol=1e-5)
    model.heads["match"].layer.weight.mul_(1e4)
    model.heads["match"].layer.bias.mul_(1e4)
    assert torch.allclose(match_log_odds(model, trunk, words), 1e4 * odds, rtol=1e-3)
    assert match_log_odds(model, trunk, words).unique().numel() == 4  # probabilities of 0 and 1 would tie


@torch.no_grad()
def test_each_row_has_its_own_guide():
    asked = evaluation()
    model, examples = asked.model, asked.examples("test", 3)
    words = model.encode_text(asked.data.tokenizer([example.caption for example in examples]))
    trunk = model.trunk(asked.images(examples))
    together = match_log_odds(model, trunk, words)
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.allclose(match_log_odds(model, trunk.rows(one), words.rows(one)), together[one], atol=1e-6)
