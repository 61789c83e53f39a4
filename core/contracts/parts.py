"""Checks of each kind's contract. Our tests run them on every registered part; third parties import them.

Each check builds the part at a toy size and raises AssertionError with a sentence about the violation.
Letters as in core.types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from core.blocks import prune
from core.kinds import Backbone, Decoder, Fusion, Head, Pooler, StepwiseDecoder, TextEncoder, TokenPruner
from core.model import Model
from core.objectives import Objective, Objectives, Step
from core.training.gradients import BackwardPass
from core.types import Batch, BlockCues, Text, Tokens
from registry.part import Part, parameters

B, P, L, D, G = 3, 12, 7, 32, 16


def check_pruner(part: Part[TokenPruner]) -> None:
    """Check a pruner's shapes, kept tokens, independence of rows, gradients, and use on meta and in tracing."""
    torch.manual_seed(0)
    pruner = part(dim=D, guide_dim=G).eval()
    tokens = Tokens(torch.randn(B, 1 + P, D), patches=(1, 1 + P))
    guide = torch.randn(B, G)

    def run(pruner: TokenPruner, tokens: Tokens, guide: Tensor) -> Tokens:
        torch.manual_seed(1)
        return prune(pruner, tokens, guide, _cues(pruner, tokens))

    out = run(pruner, tokens, guide)
    assert torch.equal(out.x[:, 0], tokens.x[:, 0]), "the [CLS] token changed: a pruner may change patches only"
    assert out.source is not None, "source is missing: return tokens.keep(...)"
    for row in range(B):
        kept = [int(i) for i in out.source[row] if i >= 0]
        assert len(set(kept)) == len(kept) and all(0 <= i < P for i in kept), (
            f"patches {kept} of {P}: repeated (twice) or unknown"
        )
        for place, i in enumerate(out.source[row].tolist()):
            if i >= 0:
                equal = torch.equal(out.patch_states[row, place], tokens.patch_states[row, i])
                assert equal, f"source gives patch {i} for a token that is not that patch's state"

    if torch.equal(_states(pruner, tokens, guide, 2), _states(pruner, tokens, guide, 3)):  # not a random pruner
        order = torch.tensor([2, 0, 1])
        mixed = run(pruner, tokens.rows(order), guide[order])
        assert torch.allclose(mixed.x, out.x[order], atol=1e-5), "rows of a batch influence each other"
        scores = pruner.score(tokens, guide, _cues(pruner, tokens))
        if scores is not None and pruner.place == "after_block":
            turn = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(P)])
            turned = pruner.score(Tokens(tokens.x[:, turn], patches=(1, 1 + P)), guide, BlockCues())
            fits = turned is not None and torch.allclose(turned, scores[:, turn[1:] - 1], atol=1e-5)
            assert fits, "permuting patches must permute scores"
        if not pruner.guided:
            blind = run(pruner, tokens, torch.randn(B, G))
            assert torch.equal(blind.x, out.x), "guided is False, but the guide changes the result"
    _check_gradients(pruner, lambda: run(pruner, tokens, guide), "scores")
    rate = "keep_rate" if "keep_rate" in parameters(part.cls) else "keep"  # third parties may call it keep
    if rate in parameters(part.cls):
        whole = Part(part.cls, {**part.settings, rate: 1.0})(dim=D, guide_dim=G).eval()
        all_kept = run(whole, tokens, guide).source
        assert all_kept is not None and ((all_kept >= 0).sum(1) == P).all(), "keep_rate = 1 must keep every patch"
    meta = part(dim=D, guide_dim=G).to("meta")
    moved = prune(meta, tokens.to("meta"), guide.to("meta"), _cues(meta, tokens.to("meta")))
    assert moved.x.shape == out.x.shape, "the meta device gives another shape"
    pruner.requires_grad_(False)  # to a trace of a function, parameters are constants
    traced = torch.jit.trace(  # as counting by fvcore does
        lambda x, guide: run(pruner, Tokens(x, patches=(1, 1 + P)), guide).x, (tokens.x, guide), check_trace=False
    )
    assert traced(tokens.x, guide).shape == out.x.shape, "tracing changes the shape"


def check_backbone(part: Part[Backbone], image_size: int = 32) -> None:
    """Check a backbone's split, independence of rows, ``grid`` and ``patches``, and pruning turned off."""
    torch.manual_seed(0)
    backbone = part(image_size=image_size, guide_dim=G).eval()
    images, guide = torch.randint(0, 256, (B, 3, image_size, image_size), dtype=torch.uint8), torch.randn(B, G)
    with torch.no_grad():
        trunk = backbone.trunk(images)
        assert trunk.patches[1] - trunk.patches[0] == backbone.grid[0] * backbone.grid[1], "patches and grid disagree"
        out, again = backbone.finish(trunk, guide), backbone(images, guide)
        assert out.pooled is not None and out.pooled.shape == (B, backbone.dim), "pooled must be (B, dim)"
        assert torch.allclose(out.x, again.x, atol=1e-5), "forward is not finish(trunk(images))"
        one = backbone(images[1:2], guide[1:2])
        assert torch.allclose(one.x[0], out.x[1], atol=1e-4), "images of a batch influence each other"
        backbone.pruning = False
        whole = backbone.finish(trunk, guide)
        num_patches = whole.patches[1] - whole.patches[0]
        assert num_patches == backbone.grid[0] * backbone.grid[1], "pruning = False must keep every patch"


def check_pooler(part: Part[Pooler]) -> None:
    """Check a pooler's shapes, independence of rows, masking and gradients."""
    torch.manual_seed(0)
    pooler = part(dim=D).eval()
    mask = torch.arange(P).expand(B, -1) < P - 2
    image = Tokens(torch.randn(B, P, D), mask=mask)
    with torch.no_grad():
        out, one = pooler(image), pooler(image.rows(slice(1, 2)))
        assert out.pooled is not None and out.pooled.shape == (B, pooler.dim), "pooled must be (B, dim)"
        assert out.x.ndim == 3 and out.x.shape[2] == pooler.dim, "tokens must be (B, Q, dim)"
        assert torch.allclose(one.pooled[0], out.pooled[1], atol=1e-5), "rows of a batch influence each other"
        hidden = dataclasses.replace(image, x=image.x.masked_fill(~mask[..., None], 9.0))
        assert torch.allclose(pooler(hidden).x, out.x, atol=1e-5), "masked tokens change the result"
    _check_gradients(pooler, lambda: Tokens(torch.cat([pooler(image).x, pooler(image).pooled[:, None]], 1)), "x")


def check_text_encoder(part: Part[TextEncoder], vocabulary: int = 50) -> None:
    """Check a text encoder's shapes, and that padding has no effect and the last word has one on [CLS]."""
    torch.manual_seed(0)
    encoder = part(vocabulary=vocabulary, text_length=32).eval()
    text, padded = _texts(vocabulary)
    with torch.no_grad():
        out, other = encoder(text), encoder(padded)
        assert out.x.shape == (B, L, encoder.dim) and out.pooled.shape == (B, encoder.dim), "wrong shape"
        assert torch.allclose(out.x, other.x[:, :L], atol=1e-5), "padding changes the words' states"
        assert torch.allclose(out.pooled, other.pooled, atol=1e-5), "padding changes the pooled state"
        last = text.ids.clone()
        last[:, -1] = (last[:, -1] + 1) % vocabulary
        assert not torch.allclose(encoder(Text(last, text.mask)).pooled, out.pooled), (
            "the last word has no effect on [CLS]"
        )
    assert encoder.embedding.shape == (vocabulary, encoder.dim), "embedding must be (V, D)"
    _check_gradients(encoder, lambda: encoder(text), "x")


def check_fusion(part: Part[Fusion]) -> None:
    """Check a fusion's shapes, padding, independence of rows, dependence on the image, and pruning turned off."""
    torch.manual_seed(0)
    fusion = part(dim=D, image_dim=D).eval()
    image, words = Tokens(torch.randn(B, 1 + P, D), patches=(1, 1 + P)), torch.randn(B, L + 2, D)
    mask = torch.arange(L + 2).expand(B, -1) < L
    short, whole = Tokens(words[:, :L], mask=mask[:, :L]), Tokens(words, mask=mask)
    with torch.no_grad():
        out, padded = fusion(short, image), fusion(whole, image)
        assert out.text.x.shape == (B, L, fusion.dim), "fused words must be (B, L, dim)"
        assert torch.allclose(out.text.x, padded.text.x[:, :L], atol=1e-5), "padding changes the fused words"
        assert torch.allclose(out.image.x, padded.image.x, atol=1e-5), "padding changes the fused image"
        other = fusion(short, dataclasses.replace(image, x=torch.randn(B, 1 + P, D)))
        assert not torch.allclose(out.text.x, other.text.x, atol=1e-3), "the image has no effect on the fused words"
        one = fusion(whole.rows(slice(1, 2)), image.rows(slice(1, 2)))
        assert torch.allclose(one.text.x[0], padded.text.x[1], atol=1e-4), "rows of a batch influence each other"
        scores, again = fusion.score(short, image), fusion.score(whole, image)
        assert scores is None or again is None or torch.allclose(scores, again, atol=1e-5), "padding changes the scores"
        fusion.pruning = False
        assert fusion(whole, image).image.x.shape == image.x.shape, "pruning = False must keep every patch"
        fusion.pruning = True
    _check_gradients(fusion, lambda: fusion(whole, image).memory, "x", fusion.pruners)


def check_decoder(part: Part[Decoder], vocabulary: int = 50) -> None:
    """Check a decoder's causality, masking of its memory, and incremental decoding."""
    torch.manual_seed(0)
    decoder = part(memory_dim=D, vocabulary=vocabulary, text_length=32).eval()
    text, _ = _texts(vocabulary)
    text = Text(text.ids, torch.ones_like(text.mask))
    memory = torch.randn(B, P, D)
    mask = torch.ones(B, P, dtype=torch.bool)
    mask[:, -2:] = False
    with torch.no_grad():
        out = decoder(decoder.encode_text(text), Tokens(memory, mask=mask)).x
        ids = text.ids.clone()
        ids[:, 4] = (ids[:, 4] + 1) % vocabulary
        changed = decoder(decoder.encode_text(Text(ids, text.mask)), Tokens(memory, mask=mask)).x
        assert torch.allclose(out[:, :4], changed[:, :4], atol=1e-5), "a later word changes an earlier state"
        assert not torch.allclose(out[:, 4:], changed[:, 4:], atol=1e-4), "a word has no effect on later states"
        hidden = memory.clone()
        hidden[:, -2:] = 9.0
        same = decoder(decoder.encode_text(text), Tokens(hidden, mask=mask)).x
        assert torch.allclose(out, same, atol=1e-5), "masked memory changes the states"
        if isinstance(decoder, StepwiseDecoder):
            state = decoder.start_decoding(Tokens(memory, mask=mask), L)
            steps = [state(text.map(lambda t, i=i: t[:, i : i + 1])) for i in range(L)]  # type: ignore[misc]
            assert torch.allclose(torch.cat(steps, 1), out, atol=1e-5), "incremental decoding gives other states"
    _check_gradients(decoder, lambda: decoder(decoder.encode_text(text), Tokens(memory, mask=mask)), "x")


def check_head(part: Part[Head], vocabulary: int = 50) -> None:
    """Check that a head keeps the leading dimensions and passes gradients."""
    torch.manual_seed(0)
    embeddings = {name: nn.Parameter(torch.randn(vocabulary, D)) for name in ("text", "decoder")}
    head = part(dim=D, vocabulary=vocabulary, classes=5, embeddings=embeddings)
    x = torch.randn(B, L, D, requires_grad=True)
    out = head(x)
    assert out.shape[:2] == (B, L), f"(B, L, D) became {tuple(out.shape)}"
    out.square().mean().backward()
    assert x.grad is not None and x.grad.isfinite().all(), "no gradient passes through"
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"


def check_objective(objective: Objective, model: Model, batch: Batch) -> None:
    """Check that a loss is finite, also for equal rows, and trains the model; also in chunks if contrastive."""
    objectives, results = Objectives(model, {"loss": objective}, {"loss": 1.0}).eval(), []
    for rows in (batch, batch.rows(torch.zeros(len(batch.images), dtype=torch.long))):
        loss = objective(Step(model, rows))
        assert loss.shape == () and loss.isfinite(), f"the loss must be a finite scalar, got {loss}"
    for chunks in (1, 2) if objective.is_contrastive else (1,):
        objectives.zero_grad()
        BackwardPass(objectives, batch.images.device, "fp32", chunks)(batch)
        results.append([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()])
    assert any(gradient.any() for gradient in results[0]), "no gradient reaches the model's parameters"
    same = all(torch.allclose(one, two, rtol=1e-3, atol=1e-5) for one, two in zip(results[0], results[-1], strict=True))
    assert same, "is_contrastive, but two chunks give other gradients: does it read more than the pooled features?"


def _cues(pruner: TokenPruner, tokens: Tokens) -> BlockCues:
    """Keys and attention for an in_block pruner: two heads over the states (B, N, D) themselves."""
    if pruner.place == "after_block":
        return BlockCues()

    def attention_maps() -> tuple[Tensor, Tensor]:
        keys = tokens.x.unflatten(-1, (2, -1)).transpose(1, 2)  # (B, 2, N, D / 2)
        return keys, (keys @ keys.transpose(-2, -1) / D**0.5).softmax(-1)

    return BlockCues(attention_maps)


def _states(pruner: TokenPruner, tokens: Tokens, guide: Tensor, seed: int) -> Tensor:
    """The states and scores of one pass under a seed, (B, E)."""
    torch.manual_seed(seed)
    out = prune(pruner, tokens, guide, _cues(pruner, tokens))
    return torch.cat([part.flatten(1) for part in (out.x, out.scores) if part is not None], 1)


def _texts(vocabulary: int) -> tuple[Text, Text]:
    """Texts (B, L), and the same with padding (B, L + 2)."""
    ids = torch.randint(5, vocabulary, (B, L))
    longer = torch.cat([ids, torch.zeros(B, 2, dtype=torch.long)], 1)
    return Text(ids, torch.ones_like(ids, dtype=torch.bool)), Text(longer, torch.arange(L + 2).expand(B, -1) < L)


def _check_gradients(module: nn.Module, run: Callable[[], Tokens], which: str, apart: Sequence[nn.Module] = ()) -> None:
    """Check that gradients reach every parameter except those of ``apart``."""
    if not any(p.requires_grad for p in module.parameters()):
        return
    module.zero_grad()
    value = getattr(run(), which)
    assert value is not None, f"it has parameters but returns no {which}, so nothing could train them"
    (value.float() * torch.randn_like(value.float())).sum().backward()
    others = {id(p) for other in apart for p in other.parameters()}
    mine = [(name, p) for name, p in module.named_parameters() if p.requires_grad and id(p) not in others]
    missing = [name for name, p in mine if p.grad is None]
    assert not missing, f"no gradient reaches {', '.join(missing)}"
