"""Inference with a loaded model: captions, features, matching, classification and retrieval.

Letters: n images, m texts, C classes, T prompts, E width of the contrastive features; the rest as in core.types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from core.model import LoadedModel
from core.runtime import autocast
from core.types import Tokens
from plugins.generation.caption import caption
from plugins.generation.generate import sampling_noise
from plugins.inference.inputs import Picture, Pictures, Texts, chunks, fill_prompts, pictures_of, preprocess, texts_of
from plugins.inference.settings import generation_settings, max_generated_tokens
from plugins.metrics.features import cosines, features, match_log_odds
from plugins.metrics.zero_shot import ENSEMBLE, ensemble

Ranked = list[tuple[str, float]]  # classes with their probabilities, likeliest first


class Predictor:
    """Inference with a model: the result of ``core.load``. Methods accept one input or many and preserve order.

    Images are paths, PIL images or uint8 tensors (3, h, w), in lists or iterators, resized as in evaluation; ``batch``
    are in memory at once. Without a text, pruners get the null guide. Results are float32 on the CPU.

    Attributes:
        model, tokenizer, sizes, device, precision: as loaded; packed linear layers cannot be trained or saved.
        batch: images, texts or pairs per forward pass; may be set. Results change by rounding only.
    """

    def __init__(self, loaded: LoadedModel, batch: int = 32):
        self.model, self.tokenizer, self.sizes = loaded.model, loaded.tokenizer, loaded.sizes
        self.device, self.precision, self.batch = loaded.device, loaded.precision, batch

    def caption(self, images: Pictures, prompts: Texts | None = None, *, seed: int = 0, **settings: Any) -> list[str]:
        """Generate a caption for each image, its prompt included.

        Args:
            prompts: one beginning for all, or one for each image.
            seed: for mode ``sample``: an image's tokens depend on the seed and on its index.
            settings: of plugins.generation.settings.Generation: ``mode``, ``beams``, ``top_p``, ... Without ``mode``,
                ``beams`` selects beam search, ``temperature``, ``top_k`` or ``top_p`` select sampling; the default is
                greedy. ``max_length`` defaults to 30, or to the decoder's limit if that is less.

        Raises:
            ValueError: the model has no decoder, a setting or an image is invalid, or the numbers of prompts and
                images differ.
        """
        return [text for text, _ in self.captions(images, prompts, seed=seed, **settings)]

    def captions(
        self, images: Pictures, prompts: Texts | None = None, *, seed: int = 0, **settings: Any
    ) -> Iterator[tuple[str, float]]:
        """Generate captions with their scores (``GeneratedText.score``) as images are read, like ``caption``."""
        self._need("caption", "decoder", "heads.words")
        starts = None if prompts is None or isinstance(prompts, str) else texts_of(prompts)
        same = prompts if isinstance(prompts, str) else ""
        known = starts if starts else [same]
        chosen = generation_settings(
            settings, max_generated_tokens(self.model, self.tokenizer, self.sizes.text_length, known)
        )

        def generated() -> Iterator[tuple[str, float]]:
            done = 0
            for chunk in chunks(pictures_of(images), self.batch):
                beginnings = [same] * len(chunk) if starts is None else starts[done : done + len(chunk)]
                if len(beginnings) < len(chunk):
                    raise ValueError(f"{len(known)} prompts for more images; there must be one for each, or one text")
                rows = range(done, done + len(chunk))
                noise = sampling_noise(seed, rows, chosen.max_length) if chosen.mode == "sample" else None
                with self._computing():
                    pixels = self._preprocess(chunk)  # (b, 3, S, S)
                    texts = caption(self.model, self.tokenizer, pixels, chosen, prompts=beginnings, noise=noise)
                yield from texts
                done += len(chunk)
            if starts is not None and done < len(starts):
                raise ValueError(f"{len(starts)} prompts for {done} images; there must be one for each, or one text")

        return generated()

    def embed_images(self, images: Pictures) -> Tensor:
        """Return the features of images (n, E), of length 1."""
        parts = list(self.image_features(images))
        return torch.cat(parts) if parts else self.embed_texts([""])[:0]  # (n, E)

    def image_features(self, images: Pictures) -> Iterator[Tensor]:
        """Return the features of ``embed_images`` in batches (b, E), as images are read."""
        self._need("images' features", "heads.image")

        def batches() -> Iterator[Tensor]:
            for chunk in chunks(pictures_of(images), self.batch):
                with self._computing():
                    image = self.model.encode_image(self.model.trunk(self._preprocess(chunk)))  # (b, N, D)
                    vectors = features(self.model, "image", image)  # (b, E)
                yield vectors.cpu()

        return batches()

    def embed_texts(self, texts: Texts) -> Tensor:
        """Return the features of texts (m, E), of length 1; texts are cut at the model's greatest length."""
        self._need("texts' features", "text", "heads.text")
        given = texts_of(texts)
        with self._computing():
            states = map(self._encode_texts, chunks(given or [""], self.batch))  # (b, L, D) each
            parts = [features(self.model, "text", part).cpu() for part in states]  # (b, E) each
        return torch.cat(parts)[: len(given)]

    @property
    def matches_by(self) -> str:
        """The score that ``match`` returns: "match", "sigmoid" or "cosine"."""
        if not any(map(self.model.lacks, ("text", "fusion", "heads.match"))):
            return "match"
        return "cosine" if self.model.lacks("heads.sigmoid") else "sigmoid"

    def match(self, images: Pictures, texts: Texts) -> Tensor:
        """Score every image with every text, (n, m), by the best score that the model has (``matches_by``).

        ``match``: the probability that they belong together, by fusion and matching head, each image pruned with the
        text as guide; one pass per pair. Else ``sigmoid``: the same by cosine, learned scale and bias (SigLIP). Else
        ``cosine``: of their features, -1 to 1, no probability: a softmax contrast learns nothing about a single pair.
        """
        given = texts_of(texts)
        if self.matches_by == "match":
            scores = list(self._match_probabilities(images, given))
        else:
            text = self.embed_texts(given)  # (m, E)
            scores = [cosines(image, text) for image in self.image_features(images)]  # (b, m) each
            if self.matches_by == "sigmoid":
                scores = [self._logits(part, "sigmoid").sigmoid() for part in scores]
        return torch.cat(scores) if scores else torch.zeros(0, len(given))  # (n, m)

    def retrieve(self, images: Pictures, texts: Texts, top: int = 5) -> list[list[tuple[int, float]]]:
        """Rank images by cosine: for each text the ``top`` best as (index in ``images``, cosine), best first.

        Ties are ordered by index. A model without contrastive heads ranks by ``match``.
        """
        given = texts_of(texts)
        if self.model.lacks("heads.image") or self.model.lacks("heads.text"):
            parts = self._match_probabilities(images, given)
        else:
            text = self.embed_texts(given)  # (m, E)
            parts = (cosines(image, text) for image in self.image_features(images))
        best, place, done = torch.zeros(len(given), 0), torch.zeros(len(given), 0, dtype=torch.int64), 0
        for part in parts:  # (b, m)
            new = torch.arange(done, done + len(part)).expand(len(given), -1)  # (m, b)
            scores, places = torch.cat([best, part.T], 1), torch.cat([place, new], 1)  # (m, top + b)
            order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top]
            best, place, done = scores.gather(1, order), places.gather(1, order), done + len(part)
        return [list(zip(p, s, strict=True)) for p, s in zip(place.tolist(), best.tolist(), strict=True)]

    def classify(
        self, images: Pictures, classes: Iterable[str] | None = None, prompts: Texts | None = None, top: int = 5
    ) -> list[Ranked]:
        """Classify images: for each the ``top`` likeliest classes with their probabilities among all classes.

        Args:
            classes: names for zero-shot classification: a class's feature is the mean over all prompts with its name;
                probabilities are the softmax of cosines over the model's temperature. None: the classes of the
                model's head ``classify``.
            prompts: texts with ``{labels}`` in place of the name; None: those of the evaluation (``ENSEMBLE``).

        Raises:
            ValueError: no classes and no such head, a repeated class, or prompts without classes or ``{labels}``.
        """
        return list(self.classified(images, classes, prompts, top))

    def classified(
        self, images: Pictures, classes: Iterable[str] | None = None, prompts: Texts | None = None, top: int = 5
    ) -> Iterator[Ranked]:
        """Classify images one by one as they are read, like ``classify``. Raises: ValueError, as there."""
        if classes is None:
            if self.model.lacks("heads.classify"):
                raise ValueError("the model has no head for classes of its own: give the classes to choose from")
            if prompts is not None:
                raise ValueError("prompts need classes: the model's own head for classes reads no text")
            names, parts = list(self.sizes.classes), self._head_logits(images)
        else:
            names = texts_of(classes)
            templates = ENSEMBLE if prompts is None else texts_of(prompts)
            filled = self.embed_texts(fill_prompts(names, templates))  # (T C, E)
            text = ensemble(filled.view(len(templates), len(names), -1))  # (C, E)
            similar = (cosines(image, text) for image in self.image_features(images))  # (b, C) each
            parts = (self._logits(part, "temperature", "sigmoid") for part in similar)

        def ranked(part: Tensor) -> list[Ranked]:
            odds, order = part.softmax(1).sort(dim=1, descending=True, stable=True)  # (b, C)
            rows = zip(odds[:, :top].tolist(), order[:, :top].tolist(), strict=True)
            return [[(names[i], p) for p, i in zip(*row, strict=True)] for row in rows]

        return chain.from_iterable(map(ranked, parts))

    def _head_logits(self, images: Pictures) -> Iterator[Tensor]:
        """Compute logits by the head ``classify``, in batches (b, C)."""
        for chunk in chunks(pictures_of(images), self.batch):
            with self._computing():
                pooled = self.model.encode_image(self.model.trunk(self._preprocess(chunk))).pooled
            assert pooled is not None
            yield self._logits(pooled.float(), "classify")

    def _logits(self, features: Tensor, *heads: str) -> Tensor:
        """Apply the first of ``heads`` that the model has, in float32, for bf16 makes ties: (b, D) -> (b, C)."""
        for head in heads:
            if head in self.model.heads:
                with torch.no_grad():
                    return Tensor.cpu(self.model.heads[head](features.to(self.device)))
        return features

    def _match_probabilities(self, images: Pictures, texts: Sequence[str]) -> Iterator[Tensor]:
        """Compute probabilities by the matching head, in batches (b, m)."""
        self._need("matching", "text", "fusion", "heads.match")
        m = len(texts)
        with self._computing():
            words = self._encode_texts(texts)  # (m, L, D)
        for chunk in chunks(pictures_of(images), self.batch):
            with self._computing():
                trunk = self.model.trunk(self._preprocess(chunk))
                image = trunk if self.model.guided else self.model.encode_image(trunk)  # (b, N, D)
                pairs = torch.arange(len(chunk) * m, device=self.device).split(self.batch)
                odds = [match_log_odds(self.model, image.rows(p // m), words.rows(p % m)) for p in pairs]
            yield torch.cat(odds).float().sigmoid().view(len(chunk), m).cpu()

    def _encode_texts(self, texts: Sequence[str]) -> Tokens:
        """Return the states of texts, (m, L, D)."""
        return self.model.encode_text(self.tokenizer(texts).to(self.device))

    def _preprocess(self, chunk: Sequence[Picture]) -> Tensor:
        """Preprocess images -> (b, 3, S, S) uint8 on the device."""
        return torch.stack([preprocess(image, self.sizes) for image in chunk]).to(self.device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.no_grad(), autocast(self.device, self.precision):
            yield

    def _need(self, verb: str, *slots: str) -> None:
        lacking = [slot for slot in slots if self.model.lacks(slot)]
        if lacking:
            raise ValueError(f"{verb}: this model lacks {' and '.join(f'model.{slot}' for slot in lacking)}")
