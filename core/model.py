"""The model as a set of slots, its sizes, and a model loaded from a folder. Letters as in core.types."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core import video
from core.files import SIZES, paths, read_text, write_json
from core.kinds import Backbone, Data, Decoder, Fusion, Head, Pooler, TextEncoder, Tokenizer, TokenPruner
from core.types import DataSpec, Fused, Text, Tokens
from registry.part import Filled, NonNegativeInt, Part, PartError
from registry.renaming import renamed

RENAMED = {"look": "encode_image", "finish": "run_pruned_blocks", "seen": "kept_patches", "moments": "frame_embedding"}
RENAMED |= {"poolers": "pooler", "reader": "text_tower", "read": "encode_text", "missing": "lacks"}
PART = "a folder of one part of a model is for recipes, by extends: FOLDER/recipe.yaml"


@renamed(RENAMED)
class Model(nn.Module):
    """Parts in slots. The constructor's arguments are the keys of a recipe's ``model:`` section.

    Args:
        backbone: encodes images. Its setting ``prune`` lists the token pruners.
        pooler: maps the image's tokens to the decoder's memory and one pooled state. None: the backbone's are used.
        text: encodes text. Its [CLS] state guides the pruners. If None, the decoder's unimodal half encodes the text.
        fusion: combines text and image tokens.
        decoder: causal; cross-attends to the fused tokens, or to the image where there is no fusion.
        heads: last layers by name. ``image`` and ``classify`` take the image's pooled state, ``text`` the text's; every
            other head takes the fused tokens, or the decoder's output where there is no fusion.
        frames: number of learned temporal embeddings, one for each frame of a clip. 0: none, as in CoCa (section 4);
            the order of the frames then has no effect.
        guide: which words guide the pruners. ``paper``: the whole caption, in one pass for all objectives (COPA).
            ``leak_free``: for each objective only the words of its input, or a learned null guide if it has none.

    Raises:
        PartError: a head takes a pooled state that no part computes, or a text-guided pruner has no text encoder.
    """

    origin: str = ""

    # arguments: six slots, two settings and four sizes
    def __init__(
        self,
        *,
        backbone: Part[Backbone],
        pooler: Part[Pooler] | None = None,
        text: Part[TextEncoder] | None = None,
        fusion: Part[Fusion] | None = None,
        decoder: Part[Decoder] | None = None,
        heads: Mapping[str, Part[Head]] | None = None,
        guide: Literal["leak_free", "paper"] = "leak_free",
        frames: NonNegativeInt = 0,
        vocabulary: Filled[int],
        text_length: Filled[int],
        image_size: Filled[int],
        classes: Filled[int] = 0,
    ):
        super().__init__()
        self.policy = guide
        words = {"vocabulary": vocabulary, "text_length": text_length}
        self.text = None if text is None else text(**words)
        text_dim = 0 if self.text is None else self.text.dim
        guide_dim = text_dim or (0 if decoder is None else decoder.cls.pooled_dim(decoder.settings))
        self.backbone = backbone(image_size=image_size, guide_dim=guide_dim)
        self.frame_embedding = nn.Parameter(torch.randn(frames, self.backbone.dim) * 0.5) if frames else None
        self.pooler = None if pooler is None else pooler(dim=self.backbone.dim)
        image_dim = self.backbone.dim if self.pooler is None else self.pooler.dim
        self.fusion = None if fusion is None else fusion(dim=text_dim, image_dim=image_dim)
        joint_dim = image_dim if self.fusion is None else self.fusion.dim
        self.decoder = None if decoder is None else decoder(memory_dim=joint_dim, **words)

        towers = {"text": self.text, "decoder": self.decoder}
        embeddings = {name: part.embedding for name, part in towers.items() if part is not None}
        feature_dim = 0 if self.text_tower is None else self.text_tower.dim
        widths = {"image": image_dim, "classify": image_dim, "text": feature_dim}
        other = joint_dim if self.fusion is not None or self.decoder is None else self.decoder.dim
        sizes: dict[str, Any] = {"vocabulary": vocabulary, "classes": classes, "embeddings": embeddings}
        parts = {name: head(dim=widths.get(name, other), **sizes) for name, head in (heads or {}).items()}
        self.heads = nn.ModuleDict(parts)
        image_heads = [name for name in ("image", "classify") if name in self.heads]
        if image_heads and self.pooler is None and not self.backbone.has_pooled:
            problem = "pools nothing (no [CLS]): set model.pooler, or let the backbone pool"
            raise PartError(f"{self.backbone.origin}: {problem}; model.heads.{image_heads[0]} needs the pooled state")
        self.guided = any(pruner.guided for pruner in self.backbone.pruners)  # by the text tower's pooled state
        if self.guided and self.text_tower is None:
            problem = "a text-guided pruner needs model.text for its guide, or a decoder that pools"
            raise PartError(f"{self.backbone.origin}: {problem}")
        assert not self.guided or self.text_tower is None or self.text_tower.dim == guide_dim, "pooled_dim is not dim"
        self.null_guide = nn.Parameter(torch.randn(guide_dim) * 0.02) if self.guided else None

    @property
    def pruners(self) -> tuple[TokenPruner, ...]:
        """The backbone's pruners, then those of a single-stream fusion, in the order in which they act."""
        return (*self.backbone.pruners, *(() if self.fusion is None else self.fusion.pruners))

    @property
    def text_tower(self) -> TextEncoder | Decoder | None:
        """The part that computes the text feature: the text encoder, else a decoder that pools, else None."""
        if self.text is not None:
            return self.text
        return self.decoder if self.decoder is not None and self.decoder.has_pooled else None

    def lacks(self, slot: str) -> bool:
        """Return True if the model has no such slot; ``Objective.needs`` lists them."""
        if slot in ("scores", "trained_scores"):
            scoring = [pruner for pruner in self.pruners[:1] if type(pruner).score is not TokenPruner.score]
            return not any(slot == "scores" or list(pruner.parameters()) for pruner in scoring)
        if slot.startswith("heads."):
            return slot.removeprefix("heads.") not in self.heads
        return (self.text_tower if slot == "text" else getattr(self, slot)) is None

    def encode_text(self, text: Text) -> Tokens:
        """Encode text (B, L) -> (B, L, D) by the text encoder, or by the decoder's unimodal half if there is none."""
        if self.text is None:
            assert self.decoder is not None
            return self.decoder.encode_text(text)
        states: Tokens = self.text(text)
        return states

    def trunk(self, images: Tensor) -> Tokens:
        """Run the blocks before the first pruner: (B, 3, H, W) -> (B, N, D), or (B, T, 3, H, W) -> (B, T, N, D)."""
        return self.backbone.trunk(images) if images.ndim == 4 else video.encode_frames(self.backbone, images)

    def run_pruned_blocks(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """Prune and run the later blocks: (B, N, D) -> (B, K, D); a clip's frames (B, T, N, D) are joined.

        ``guide`` is (B, G); None stands for the learned null guide, if the pruners are guided.

        Raises:
            ValueError: the clips have more frames than ``frames``.
        """
        guide = self._guide_or_null(guide, trunk)
        if trunk.x.ndim == 3:
            return self.backbone.finish(trunk, guide)
        return video.finish_frames(self.backbone, trunk, guide, self.frame_embedding)

    def encode_image(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """``run_pruned_blocks``, then the pooler: (B, N, D) -> (B, Q, D), with ``pooled`` (B, D)."""
        image = self.run_pruned_blocks(trunk, guide)
        return image if self.pooler is None else self.pooler(image)

    def score(self, trunk: Tokens, words: Tokens | None, blank: Tensor | None = None) -> Tensor | None:
        """The first pruner's logits (B, P) with ``words`` (B, L, D) as the guide; runs only the blocks before it.

        Rows marked in ``blank`` (B,) bool get the null guide, as all do without ``words``. A single-stream fusion
        has no null guide: its blank rows are empty texts.
        """
        if not self.backbone.pruners and self.fusion is not None and words is not None:
            return self.fusion.score(words, self.encode_image(trunk))
        guide = None if words is None else words.pooled
        if guide is not None and blank is not None and self.null_guide is not None:
            guide = torch.where(blank[:, None], self.null_guide.to(guide.dtype), guide)
        return self.backbone.score(trunk, self._guide_or_null(guide, trunk))

    def kept_patches(self, trunk: Tokens, words: Tokens | None) -> Tokens:
        """The image's tokens (B, K, D) after all pruning, with ``words`` (B, L, D) as the guide."""
        guide = None if words is None else words.pooled
        if self.fusion is None or words is None or not self.fusion.pruners:
            return self.run_pruned_blocks(trunk, guide)
        fused: Fused = self.fusion(words, self.encode_image(trunk, guide))
        return fused.image

    def _guide_or_null(self, guide: Tensor | None, trunk: Tokens) -> Tensor | None:
        """Return ``guide`` (B, G), or the null guide in its place."""
        if guide is not None or self.null_guide is None:
            return guide
        return self.null_guide.expand(int(trunk.x.shape[0]), -1)

    @contextmanager
    def unpruned(self) -> Iterator[None]:
        """Turn pruning off within a ``with`` block: every patch is kept."""
        parts: list[Backbone | Fusion] = [self.backbone, *([] if self.fusion is None else [self.fusion])]
        for part in parts:
            part.pruning = False
        try:
            yield
        finally:
            for part in parts:
                part.pruning = True


@dataclass(frozen=True)
class ModelSpec:
    """Sizes that a model takes from its data rather than from its recipe; saved as sizes.json."""

    image_size: int
    text_length: int
    vocabulary: int
    classes: tuple[str, ...] = ()  # class names of the head "classify", in the order of its logits
    crop: bool = True  # True: images are cropped to a square; False: resized to it, as the held-out images of training

    @classmethod
    def of(cls, data: Data | DataSpec) -> ModelSpec:
        """Return the sizes of a model for this data."""
        vocabulary = data.vocabulary if isinstance(data, DataSpec) else data.tokenizer.vocabulary
        return cls(data.image_size, data.text_length, vocabulary, tuple(data.classes), crop=False)

    @classmethod
    def read(cls, folder: str) -> ModelSpec:
        """Read sizes.json from a folder; unknown keys are ignored.

        Raises:
            ValueError: the file is missing, or a number in it is missing or below 1; names the file.
        """
        file = os.path.join(folder, SIZES)
        if not paths.isfile(file):
            raise ValueError(f"{file}: no such file. An older run gets it by: patchbay evaluate {folder}; {PART}")
        try:
            content = json.loads(read_text(file))
            sizes = [content[name] for name in ("image_size", "text_length", "vocabulary")]
            if not all(isinstance(size, int) and size > 0 for size in sizes):
                raise ValueError(f"expected whole numbers above 0, got {sizes}")
            classes = tuple(map(str, content.get("classes", ())))
            return cls(sizes[0], sizes[1], sizes[2], classes, bool(content.get("crop", True)))
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            problem = f"lacks {err}; {PART}" if isinstance(err, KeyError) else f"not the sizes of a model: {err}"
            raise ValueError(f"{file}: {problem}") from err

    def write(self, folder: str) -> None:
        """Write sizes.json into a folder."""
        write_json(os.path.join(folder, SIZES), dataclasses.asdict(self))


@dataclass(frozen=True)
class LoadedModel:
    """A model loaded from a folder, in eval mode on ``device``, with its tokenizer and sizes."""

    model: Model
    tokenizer: Tokenizer
    sizes: ModelSpec
    device: torch.device
    precision: str  # "fp32" or "bf16"
