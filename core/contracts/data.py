"""Checks of the contracts of data and tokenizers; third parties import them from core.contracts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.kinds import Data, Tokenizer


def check_data(data: Data) -> None:
    """Check that batches depend on their arguments alone, held-out examples are fixed, and boxes lie inside images."""
    reads = frozenset({"masked", "prefixed", "regions", "labels"})
    one, same, next_ = (data.batch(step, size=4, seed=0, reads=reads) for step in (5, 5, 6))
    assert all(torch.equal(*pair) for pair in ((one.images, same.images), (one.text.ids, same.text.ids))), (
        "a batch must repeat"
    )
    assert not torch.equal(one.images, next_.images), "two steps drew the same batch"
    size = data.image_size
    shape = (*((data.frames,) if data.frames else ()), 3, size, size)
    assert one.images.shape == (4, *shape) and one.images.dtype == torch.uint8, f"images: (B, {shape}) uint8"
    assert one.masked is not None and one.prefixed is not None, "masked or prefixed is missing"
    plain = data.batch(5, size=4, seed=0, reads=frozenset())
    assert plain.regions is None and plain.labels is None, "a field is filled that reads does not list"
    assert torch.equal(plain.images, one.images), "reads must not change the images"
    assert int(one.text.ids.max()) < data.tokenizer.vocabulary and one.text.ids.shape[1] <= data.text_length
    if one.regions is not None:
        boxes = one.regions.boxes
        assert ((boxes >= 0) & (boxes <= 1)).all(), "boxes must be fractions of the image's sides"
    if data.classes:
        assert one.labels is not None and one.labels.shape == (4, len(data.classes)), "labels: (B, C)"
        assert one.labels.is_floating_point() and (one.labels >= 0).all(), "labels must be floats from 0"
        named = {name for _, name in data.labelled_examples(data.splits()[0], 4)}
        assert named <= set(data.classes), "a held-out class is not in classes"
    check_tokenizer(data.tokenizer, [example.caption for example in data.held_out(data.splits()[0], 4)])
    for split in data.splits():
        examples = data.held_out(split, 8)
        assert [e.key for e in examples] == [e.key for e in data.held_out(split, 8)], f"{split} is not repeatable"
        for example in examples:
            assert example.image.shape == shape and data.describes(example, example), example.key
            for region in example.regions:
                x0, y0, x1, y1 = region.box
                assert 0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size, f"{example.key}: box {region.box}"
            phrases = [region.phrase for region in example.regions]
            assert not example.absent or example.absent not in phrases, f"{example.key}: {example.absent!r} is there"


def check_tokenizer(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Check [CLS] at the start, one [SEP], and padding where the mask is False."""
    text = tokenizer(texts)
    assert (text.ids[:, 0] == tokenizer.cls).all(), "a text does not start with [CLS]"
    assert (text.ids[~text.mask] == tokenizer.pad).all(), "padding is not [PAD]"
    assert ((text.ids == tokenizer.sep).sum(1) == 1).all(), "a text does not have exactly one [SEP]"
