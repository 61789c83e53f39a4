"""The kinds of part: what a third party implements. Letters as in core.types.

A part's ``__init__`` takes keyword-only settings with annotations; they are its schema in a recipe. Widths that follow
from others are annotated ``Filled[int]``: ``dim`` (its own input), ``guide_dim``, ``image_dim``, ``vocabulary``, ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from core.types import Batch, DataSpec, Example, Fused, Text, Tokens

if TYPE_CHECKING:
    from core.types import BlockCues


class Backbone(nn.Module, ABC):
    """Pictures to tokens, split at the first pruner so that what does not depend on the text is computed once."""

    origin: str = ""
    dim: int
    grid: tuple[int, int]  # patches down, patches across
    has_pooled: bool = True  # whether ``finish`` gives ``pooled``; without it a pooler must
    pruning: bool = True  # False: run all blocks on all patches (the unpruned comparison)

    @property
    def pruners(self) -> Sequence[TokenPruner]:
        """In the order in which they act."""
        return ()

    @abstractmethod
    def trunk(self, images: Tensor) -> Tokens:
        """Blocks before the first pruner. ``images`` (B, 3, H, W) uint8 -> tokens with ``patches`` set."""

    @abstractmethod
    def finish(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """Prune by ``guide`` (B, G), run the remaining blocks; the result has ``pooled`` (B, D) if it ``pools``."""

    def score(self, trunk: Tokens, guide: Tensor | None = None) -> Tensor | None:
        """The first pruner's logits (B, P) for the trunk's patches, without running any later block."""
        return None

    def forward(self, images: Tensor, guide: Tensor | None = None) -> Tokens:
        return self.finish(self.trunk(images), guide)


class TokenPruner(nn.Module, ABC):
    """Fewer patches. Stands in a backbone's ``prune`` list."""

    origin: str = ""
    guided: ClassVar[bool] = False  # True: its choice depends on the guide
    place: ClassVar[Literal["after_block", "in_block"]] = "after_block"  # in_block: between attention and MLP

    def score(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tensor | None:
        """Logits (B, P) of every patch being worth keeping; None where it has none."""
        return None

    @abstractmethod
    def forward(self, tokens: Tokens, guide: Tensor | None, cues: BlockCues) -> Tokens:
        """``tokens`` (B, N, D) (P patches, none masked), ``guide`` (B, G) or None; ends with ``tokens.keep(...)``."""


class Pooler(nn.Module, ABC):
    """A picture's tokens to those that a decoder reads and to the one that a contrast reads."""

    origin: str = ""
    dim: int

    @abstractmethod
    def forward(self, image: Tokens) -> Tokens:
        """(B, N, D) -> (B, Q, dim) with ``pooled`` (B, dim)."""


class TextEncoder(nn.Module, ABC):
    """Words to states that see both ways. ``pooled`` is the state of [CLS]."""

    origin: str = ""
    dim: int

    @property
    @abstractmethod
    def embedding(self) -> nn.Parameter:
        """The word embeddings (V, D), to which a vocabulary head may be tied."""

    @abstractmethod
    def forward(self, text: Text) -> Tokens:
        """(B, L) -> (B, L, D), with ``mask`` and ``pooled`` (B, D)."""


class Fusion(nn.Module, ABC):
    """Words and picture to joint states. A single-stream fusion may prune patches between its own blocks."""

    origin: str = ""
    dim: int
    pruning: bool = True  # False: keep every patch (the unpruned comparison)

    @property
    def pruners(self) -> Sequence[TokenPruner]:
        """In the order in which they act."""
        return ()

    def score(self, text: Tokens, image: Tokens) -> Tensor | None:
        """The first pruner's logits (B, P) for the picture's patches, without running any later block."""
        return None

    @abstractmethod
    def forward(self, text: Tokens, image: Tokens) -> Fused:
        """Text (B, L, D) and picture (B, N, D) -> both, fused, of width ``dim``."""


class Decoder(nn.Module, ABC):
    """A causal decoder whose lower half reads words alone and whose upper half attends to a memory."""

    origin: str = ""
    dim: int
    has_pooled: bool = False  # True: ``read`` gives a text's feature too, so that no text encoder is needed

    @classmethod
    def pooled_dim(cls, settings: Mapping[str, Any]) -> int:
        """What ``dim`` is going to be if it ``pools``, else 0: it guides pruners, which are built before it is."""
        return 0

    @property
    @abstractmethod
    def embedding(self) -> nn.Parameter:
        """The word embeddings (V, D), to which a vocabulary head may be tied."""

    @abstractmethod
    def encode_text(self, text: Text) -> Tokens:
        """The lower, unimodal half: (B, L) -> (B, L, D), causal; with ``pooled`` (B, D) where it ``pools``."""

    @abstractmethod
    def forward(self, words: Tokens, memory: Tokens) -> Tokens:
        """The upper half: words (B, L, D) attend to ``memory`` (B, N, D) -> (B, L, D), causal in the words."""


class Head(nn.Module, ABC):
    """A small last layer, a slot of the model that objectives, retrieval and generation ask for by name."""

    origin: str = ""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., outputs)."""


class Tokenizer(ABC):
    """Strings to ids. Every text starts with [CLS] and ends with [SEP]."""

    vocabulary: int  # V
    pad: int
    cls: int
    sep: int
    mask: int

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> Text:
        """(B, L), padded to the longest and cut at the greatest length."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Words again, special tokens left out."""

    @abstractmethod
    def save(self, folder: str) -> None:
        """Write the vocabulary so that the run's folder suffices to load the model."""


class Data(ABC):
    """Where batches come from."""

    origin: str = ""
    image_size: int
    text_length: int
    tokenizer: Tokenizer
    classes: Sequence[str] = ()  # what a picture may be labelled with
    frames: int = 0  # of a clip; 0: pictures

    @classmethod
    def spec(cls, settings: Mapping[str, Any], reads: frozenset[str]) -> DataSpec:
        """The sizes for these settings. This builds the data and draws two examples; override it where that is slow.

        Raises:
            ValueError: what is wrong with the settings or the data.
        """
        data = cls(**settings)
        drawn = data.batch(0, size=2, seed=0, reads=reads)
        masked = 1 if drawn.masked is None else int(drawn.masked.positions.shape[1])
        regions = 1 if drawn.regions is None else len(drawn.regions.images)
        words, splits, classes = data.tokenizer.vocabulary, tuple(data.splits()), tuple(data.classes)
        return DataSpec(data.image_size, data.text_length, words, masked, regions, splits, (), classes, data.frames)

    @abstractmethod
    def batch(self, step: int, *, size: int, seed: int, reads: frozenset[str]) -> Batch:
        """Step ``step``'s batch: a pure function of its arguments. ``reads`` says which parts to make."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """The held-out splits: "validation", "test" and others, such as "withheld"."""

    @abstractmethod
    def held_out(self, split: str, count: int) -> Sequence[Example]:
        """The first ``count`` examples of a held-out split, or all where there are fewer; always the same."""

    def labelled_examples(self, split: str, count: int) -> Sequence[tuple[Example, str]]:
        """As ``held_out``, of pictures with a class each, and its name; empty where the data has no classes."""
        return ()

    def verify(self) -> dict[str, Any]:
        """Read everything once: {pictures, records, skipped {kind: count}, messages}; empty where nothing is read."""
        return {}

    def references(self, example: Example) -> Sequence[str]:
        """All captions that a written one may be measured against."""
        return (example.caption,)

    def describes(self, caption: Example, picture: Example) -> bool:
        """Whether the first's caption is true of the second's picture: what bounds retrieval."""
        return caption.caption == picture.caption


class DecodeState(ABC):
    """State of a decoding in progress: R = B K rows, where the K rows of one image are adjacent."""

    @abstractmethod
    def __call__(self, text: Text) -> Tensor:
        """Append the next words: (R, t) -> their states (R, t, D). Masked words are skipped."""

    @abstractmethod
    def rows(self, index: Tensor) -> None:
        """Continue with rows ``index`` (R',); R' is a multiple of B and each row stays with its image."""


class StepwiseDecoder(Decoder):
    """A decoder with incremental decoding. Other decoders run on the whole text at every step."""

    text_length: int  # maximum number of words

    @abstractmethod
    def start_decoding(self, memory: Tokens, length: int) -> DecodeState:
        """Return an empty state for ``memory`` (B, N, D), encoded once for all rows, with room for ``length`` words."""
