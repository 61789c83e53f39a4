"""The loss of words in pieces is the plain formula's, without all logits and without padding."""

from __future__ import annotations

import pytest
import torch
from small_coca import SOURCE, coca
from torch import nn
from torch.nn import functional as F

from core.objectives import Step
from core.types import Text
from plugins.heads.vocabulary import Vocabulary
from plugins.objectives.caption import Captioning
from plugins.objectives.token_loss import target_positions, token_loss

PLACES, WIDTH, WORDS = 23, 8, 50


def case():
    torch.manual_seed(0)
    states = torch.randn(PLACES, WIDTH, requires_grad=True)
    targets = torch.randint(WORDS, (PLACES,))
    weights = torch.rand(PLACES).masked_fill(torch.rand(PLACES) < 0.3, 0)
    embeddings = {"text": nn.Parameter(torch.randn(WORDS, WIDTH))}
    return states, targets, weights, Vocabulary(dim=WIDTH, vocabulary=WORDS, embeddings=embeddings)


def plain(head, states, targets, weights, smoothing):
    logits = head(states).log_softmax(1)
    losses = -logits[torch.arange(PLACES), targets]
    return (((1 - smoothing) * losses - smoothing * logits.mean(1)) * weights).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("max_logits", [1, 7 * WORDS, PLACES * WORDS])
def test_value_and_gradients_are_the_plain_formulas(max_logits, smoothing):
    states, targets, weights, head = case()
    inputs = [states, *head.parameters()]
    expected = plain(head, states, targets, weights, smoothing)
    expected_grads = torch.autograd.grad(3 * expected, inputs)
    loss = token_loss(head, states, targets, weights, smoothing, max_logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, inputs), expected_grads, rtol=1e-5, atol=2e-4)
    with torch.no_grad():
        torch.testing.assert_close(token_loss(head, states, targets, weights, smoothing, max_logits), expected)


def test_no_more_logits_than_allowed_and_none_are_kept():
    states, targets, weights, head = case()
    rows, kept, pointers = [], [], {p.data_ptr() for p in head.parameters()}
    head.words.register_forward_hook(lambda _module, _inputs, out: rows.append(len(out)))

    def keep(tensor):
        if tensor.data_ptr() not in pointers:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_loss(head, states, targets, weights, max_logits=5 * WORDS)
    assert sum(rows) == PLACES
    assert max(rows) == 5
    assert sum(kept) == states.numel() + sum(p.numel() for p in head.parameters())  # gradients, no logits


def test_a_frozen_head_hands_gradients_on():
    states, targets, weights, head = case()
    whole = torch.autograd.grad(plain(head, states, targets, weights, 0.0), states)
    head.requires_grad_(False)
    pieces = torch.autograd.grad(token_loss(head, states, targets, weights, max_logits=4 * WORDS), states)
    torch.testing.assert_close(pieces, whole)


def test_in_bf16_every_piece_reaches_the_matrix():
    states, targets, weights, head = case()
    expected_grads = torch.autograd.grad(plain(head, states, targets, weights, 0.0), head.words.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = token_loss(head, states, targets, weights, max_logits=4 * WORDS)
    assert loss.dtype == torch.float32
    grads = torch.autograd.grad(loss, head.words.weight)[0]
    assert F.cosine_similarity(grads.flatten(), expected_grads.flatten(), dim=0) > 0.999


def test_labelled_places():
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert target_positions(mask, 4).tolist() == [0, 1, 4, 5]
    assert target_positions(mask, 6).tolist() == list(range(6))


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_sum"])
def test_captions_without_padding_lose_nothing(reduction):
    model, batch = coca(), SOURCE.batch(0, size=5, seed=0, reads=frozenset())
    words = int(batch.text.mask[:, 1:].sum())
    rows = []
    model.heads["words"].words.register_forward_hook(lambda _module, inputs, _out: rows.append(len(inputs[0])))
    step = Step(model, batch)
    loss = Captioning(reduction=reduction, smoothing=0.1)(step)
    assert sum(rows) == words < batch.text.mask[:, 1:].numel()

    logits = model.heads["words"](model.decoder(step.decoder_text, step.image).x[:, :-1])
    losses = F.cross_entropy(
        logits.flatten(0, 1), batch.text.ids[:, 1:].flatten(), reduction="none", label_smoothing=0.1
    )
    sums = (losses.view(5, -1) * batch.text.mask[:, 1:]).sum(1)
    torch.testing.assert_close(loss, sums.mean() if reduction == "sequence_sum" else sums.sum() / words)

    step.num_target_tokens = batch.text.mask[:, 1:].numel()  # as where the host does not see the mask
    torch.testing.assert_close(Captioning(reduction=reduction, smoothing=0.1)(step), loss)


def test_captions_of_no_word_are_no_loss():
    model, batch = coca(), SOURCE.batch(0, size=2, seed=0, reads=frozenset())
    first = torch.arange(batch.text.ids.shape[1]).expand(2, -1) == 0
    step = Step(model, type(batch)(batch.images, Text(batch.text.ids * first, first)))
    loss = Captioning()(step)
    loss.backward()
    assert loss.item() == 0
    assert model.heads["words"].words.weight.grad.eq(0).all()
