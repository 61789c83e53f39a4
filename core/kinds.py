"""The kinds of part: base classes for third parties. Letters as in core.types; V vocabulary, Q queries.

A constructor takes keyword-only, annotated settings: a part's keys in a recipe. Sizes that the model passes, such as
``dim``, are annotated ``Filled[int]``. ``origin`` names part and plugin in messages. core.contracts checks each kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from core.types import Batch, BlockCues, DataSpec, Example, Fused, Text, Tokens
from registry.renaming import renamed


@renamed({"pools": "has_pooled"})
class Backbone(nn.Module, ABC):
    """An image encoder, split at its first pruner: ``trunk`` is shared by all guides, ``finish`` runs once for each."""

    origin: str = ""
    dim: int  # D
    grid: tuple[int, int]  # patches down, patches across
    has_pooled: bool = True  # False: ``finish`` returns no ``pooled``, so the model needs a pooler
    pruning: bool = True  # False: run all blocks on all patches, for comparison

    @property
    def pruners(self) -> Sequence[TokenPruner]:
        """The pruners in the order in which they act."""
        return ()

    @abstractmethod
    def trunk(self, images: Tensor) -> Tokens:
        """Run the blocks before the first pruner: (B, 3, H, W) uint8 -> (B, N, D) with ``patches`` set."""

    @abstractmethod
    def finish(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """Prune by ``guide`` (B, G), run later blocks: (B, N, D) -> (B, K, D); ``pooled`` (B, D) if ``has_pooled``."""

    def score(self, trunk: Tokens, guide: Tensor | None = None) -> Tensor | None:
        """The first pruner's logits (B, P) for the trunk's patches; runs no later block. None: it has no scores."""
        return None

    def forward(self, images: Tensor, guide: Tensor | None = None) -> Tokens:  # (B, 3, H, W) -> (B, K, D)
        return self.finish(self.trunk(images), guide)


class TokenPruner(nn.Module, ABC):
    """A layer that drops patches; an entry of a ``prune`` list. PTA and the patch metrics call ``score``."""

    origin: str = ""
    guided: ClassVar[bool] = False  # True: the choice depends on the guide
    place: ClassVar[Literal["after_block", "in_block"]] = "after_block"  # in_block: between attention and MLP

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor | None:
        """Logits (B, P), higher for patches to keep; None if the pruner computes none. Arguments as in ``forward``."""
        return None

    @abstractmethod
    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        """Drop patches: (B, N, D) -> (B, K, D). Return ``tokens.keep(...)``; other tokens must not change.

        No patch is masked. ``guide`` (B, G): the text's pooled state, the null guide or None. ``cues``: if in_block.
        """


class Pooler(nn.Module, ABC):
    """Maps an image's tokens to those that the decoder attends to and to one state for contrastive losses."""

    origin: str = ""
    dim: int  # width of the result

    @abstractmethod
    def forward(self, image: Tokens) -> Tokens:
        """(B, N, D) -> (B, Q, dim) with ``pooled`` (B, dim)."""


class TextEncoder(nn.Module, ABC):
    """A bidirectional text encoder. ``pooled`` is the state of [CLS]."""

    origin: str = ""
    dim: int  # D

    @property
    @abstractmethod
    def embedding(self) -> nn.Parameter:
        """The word embeddings (V, D), to which a vocabulary head may be tied."""

    @abstractmethod
    def forward(self, text: Text) -> Tokens:
        """(B, L) -> (B, L, D), with ``mask`` (B, L) and ``pooled`` (B, D)."""


class Fusion(nn.Module, ABC):
    """Combines text and image tokens. A single-stream fusion may prune patches between its own blocks."""

    origin: str = ""
    dim: int  # width of the result
    pruning: bool = True  # False: keep every patch, for comparison

    @property
    def pruners(self) -> Sequence[TokenPruner]:
        """The pruners in the order in which they act."""
        return ()

    def score(self, text: Tokens, image: Tokens) -> Tensor | None:
        """The first pruner's logits (B, P) for the image's patches; runs no later block. None: it has no pruner."""
        return None

    @abstractmethod
    def forward(self, text: Tokens, image: Tokens) -> Fused:
        """Text (B, L, D) and image (B, N, D') -> text (B, L, dim) and image (B, K, dim)."""


@renamed({"pools": "has_pooled", "read": "encode_text"})
class Decoder(nn.Module, ABC):
    """A causal decoder in two halves: the lower one encodes text alone, the upper one cross-attends to a memory."""

    origin: str = ""
    dim: int  # D
    has_pooled: bool = False  # True: ``encode_text`` returns ``pooled``, so the model needs no text encoder

    @classmethod
    def pooled_dim(cls, settings: Mapping[str, Any]) -> int:
        """Width of ``pooled`` under these settings, 0 if there is none. Pruners need it before the decoder is built."""
        return 0

    @property
    @abstractmethod
    def embedding(self) -> nn.Parameter:
        """The word embeddings (V, D), to which a vocabulary head may be tied."""

    @abstractmethod
    def encode_text(self, text: Text) -> Tokens:
        """Run the lower, unimodal half, causal: (B, L) -> (B, L, D), with ``pooled`` (B, D) if ``has_pooled``."""

    @abstractmethod
    def forward(self, words: Tokens, memory: Tokens) -> Tokens:
        """Run the upper half, causal: words (B, L, D) cross-attend to ``memory`` (B, N, D') -> (B, L, D)."""


class Head(nn.Module, ABC):
    """A last layer. Objectives, metrics and generation use it by its name in the model's ``heads``."""

    origin: str = ""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E), E outputs."""


class Tokenizer(ABC):
    """Converts strings to ids. Every text starts with [CLS] and ends with [SEP]."""

    vocabulary: int  # V; ids are below it
    pad: int  # id of [PAD]
    cls: int  # id of [CLS]
    sep: int  # id of [SEP]
    mask: int  # id of [MASK]

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> Text:
        """B strings -> (B, L), padded to the longest and truncated to the maximum length."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Convert ids to a string without special tokens."""

    @abstractmethod
    def save(self, folder: str) -> None:
        """Write the vocabulary to a run's folder, so that the folder alone is enough to load the model."""


@renamed({"sketch": "spec"})
class Data(ABC):
    """A data set: training batches by step number, and held-out examples."""

    origin: str = ""
    image_size: int  # pixels, H = W
    text_length: int  # L, maximum number of words
    tokenizer: Tokenizer
    classes: Sequence[str] = ()  # C class names; empty: no labels
    frames: int = 0  # T, frames of a clip; 0: images

    @classmethod
    def spec(cls, settings: Mapping[str, Any], reads: frozenset[str]) -> DataSpec:
        """The sizes under these settings. Override this method if building the data and drawing a batch is slow.

        Raises:
            ValueError: a setting or the data is invalid.
        """
        data = cls(**settings)
        batch = data.batch(0, size=2, seed=0, reads=reads)
        masked = 1 if batch.masked is None else int(batch.masked.positions.shape[1])
        regions = 1 if batch.regions is None else len(batch.regions.images)
        words, splits, classes = data.tokenizer.vocabulary, tuple(data.splits()), tuple(data.classes)
        return DataSpec(data.image_size, data.text_length, words, masked, regions, splits, (), classes, data.frames)

    @abstractmethod
    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        """The batch of a step, B = ``size``: a pure function of the arguments. ``reads``: further fields to fill."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Names of the held-out splits: "validation", "test" and others, such as "withheld"."""

    @abstractmethod
    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """The first ``count`` examples of a held-out split, or all if there are fewer; the same at every call."""

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        """The first ``count`` held-out examples that have one class, with its name; empty without classes."""
        return ()

    def verify(self) -> dict[str, Any]:
        """Read all files once: {pictures, records, splits, skipped {kind: count}, messages}; empty without files."""
        return {}

    def references(self, example: Example) -> Sequence[str]:
        """The reference captions of an example, to evaluate a generated caption against."""
        return (example.caption,)

    def describes(self, caption: Example, picture: Example) -> bool:
        """Return True if the first example's caption is true of the second's image; gives retrieval's upper bound."""
        return caption.caption == picture.caption


class DecodeState(ABC):
    """State of incremental decoding: R = B K rows, where the K rows of one image are adjacent."""

    @abstractmethod
    def __call__(self, text: Text) -> Tensor:
        """Append the next words: (R, t) -> their states (R, t, D). Masked words are skipped."""

    @abstractmethod
    def rows(self, index: Tensor) -> None:
        """Continue with rows ``index`` (R',); R' is a multiple of B, and each row stays with its image."""


class StepwiseDecoder(Decoder):
    """A decoder with incremental decoding. Other decoders run on the whole text at every step."""

    text_length: int  # maximum number of words

    @abstractmethod
    def start_decoding(self, memory: Tokens, length: int) -> DecodeState:
        """Return an empty state for ``memory`` (B, N, D), encoded once for all rows, for up to ``length`` words."""
