"""COPA's parts at its default size, one by one."""

from __future__ import annotations

import pytest
import torch

from bench.measure import copas_blocks, traffic

BATCH, PATCHES, KEPT = 16, 64, 32  # 64 px in patches of 8, half of them kept


@pytest.fixture
def parts(copa):
    """Each part as a call, on inputs that the parts before it made; with what passes through its blocks."""
    built, batch = copa
    model = built.model.eval()
    words = int(batch.text.ids.shape[1])
    text, all_, left = (BATCH, words), (BATCH, 1 + PATCHES), (BATCH, 1 + KEPT + 1)
    with torch.no_grad():
        read, trunk = model.encode_text(batch.text), model.backbone.trunk(batch.images)
        image = model.encode_image(trunk, read.pooled)
        memory, suffix = model.fusion(read, image).memory, model.decoder.encode_text(batch.text)
        yield {
            "trunk": (lambda: model.backbone.trunk(batch.images), {"trunk": all_}),
            "finish": (lambda: model.encode_image(trunk, read.pooled), {"finish": left}),
            "text": (lambda: model.encode_text(batch.text), {"text": text}),
            "fusion": (lambda: model.fusion(read, image), {"fusion": text, "connected": (BATCH, left[1] + words)}),
            "decoder": (lambda: model.decoder(suffix, memory), {"decoder": text}),
        }


@pytest.mark.parametrize("name", ["trunk", "finish", "text", "fusion", "decoder"])
def test_part(timed, copa, parts, name):
    call, expected = parts[name]
    with traffic(copas_blocks(copa[0].model)) as seen:
        call()
    assert seen == {block: [expected[block]] if block in expected else [] for block in seen}
    timed(call)
