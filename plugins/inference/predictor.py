"""A model out of its folder: captions, features, matching, classes and retrieval of pictures and texts at hand.

Letters: n pictures, m texts, C classes, T prompts, E the width of the contrast; the rest as in core.types.
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
from plugins.inference.inputs import Picture, Pictures, Texts, asked, chunks, pictures_of, prepared, texts_of
from plugins.inference.settings import generation, longest_written
from plugins.metrics.features import cosines, features, match_log_odds
from plugins.metrics.zero_shot import ENSEMBLE, ensemble

Ranked = list[tuple[str, float]]  # names with their probabilities, the likeliest first


class Predictor:
    """What ``core.load`` gives. Every verb takes one or many, and always gives as many as it was given, in their order.

    Pictures are paths, PIL images or uint8 tensors (3, h, w), in lists or iterators, brought to the model's size as it
    was measured with; ``batch`` of them are in memory at a time, and only what is returned is kept. Where a text would
    guide a pruner and there is none, the null guide does. Features, cosines and probabilities are float32 on the CPU.

    Attributes:
        model, tokenizer, sizes, device, precision: as loaded; the model's linear maps are packed, so that it can be
            run, not trained or saved.
        batch: pictures, texts or pairs to a pass; may be set, and changes no result beyond rounding.
    """

    def __init__(self, loaded: LoadedModel, batch: int = 32):
        self.model, self.tokenizer, self.sizes = loaded.model, loaded.tokenizer, loaded.sizes
        self.device, self.precision, self.batch = loaded.device, loaded.precision, batch

    def caption(self, images: Pictures, prompts: Texts | None = None, *, seed: int = 0, **settings: Any) -> list[str]:
        """A caption of each picture, its prompt included.

        Args:
            prompts: one beginning for all, or one for each.
            seed: of ``sample``: a picture's draws depend on it and on the picture's place alone.
            settings: of plugins.generation.settings.Generation: ``mode``, ``beams``, ``top_p``, ... Without ``mode``,
                ``beams`` means beam search, ``temperature``, ``top_k`` or ``top_p`` sampling, and nothing of these the
                likeliest words. ``max_length`` is 30, or less where the decoder cannot read as much.

        Raises:
            ValueError: the model writes nothing, a setting or a picture is wrong, or prompts and pictures differ in
                number.
        """
        return [text for text, _ in self.captions(images, prompts, seed=seed, **settings)]

    def captions(
        self, images: Pictures, prompts: Texts | None = None, *, seed: int = 0, **settings: Any
    ) -> Iterator[tuple[str, float]]:
        """As ``caption``, one after the other while pictures are read, each with its score (``Written.score``)."""
        self._need("caption", "decoder", "heads.words")
        starts = None if prompts is None or isinstance(prompts, str) else texts_of(prompts)
        same = prompts if isinstance(prompts, str) else ""
        known = starts if starts else [same]
        chosen = generation(settings, longest_written(self.model, self.tokenizer, self.sizes.text_length, known))

        def written() -> Iterator[tuple[str, float]]:
            done = 0
            for chunk in chunks(pictures_of(images), self.batch):
                beginnings = [same] * len(chunk) if starts is None else starts[done : done + len(chunk)]
                if len(beginnings) < len(chunk):
                    raise ValueError(f"{len(known)} prompts for more pictures; there must be one for each, or one text")
                rows = range(done, done + len(chunk))
                numbers = sampling_noise(seed, rows, chosen.max_length) if chosen.mode == "sample" else None
                with self._computing():
                    shown = self._shown(chunk)
                    found = caption(self.model, self.tokenizer, shown, chosen, prompts=beginnings, noise=numbers)
                yield from found
                done += len(chunk)
            if starts is not None and done < len(starts):
                raise ValueError(f"{len(starts)} prompts for {done} pictures; there must be one for each, or one text")

        return written()

    def embed_images(self, images: Pictures) -> Tensor:
        """(n, E), each of length 1."""
        found = list(self.image_features(images))
        return torch.cat(found) if found else self.embed_texts([""])[:0]

    def image_features(self, images: Pictures) -> Iterator[Tensor]:
        """As ``embed_images``, a batch (b, E) at a time while pictures are read."""
        self._need("images' features", "heads.image")

        def found() -> Iterator[Tensor]:
            for chunk in chunks(pictures_of(images), self.batch):
                with self._computing():
                    seen = features(self.model, "image", self.model.encode_image(self.model.trunk(self._shown(chunk))))
                yield seen.cpu()

        return found()

    def embed_texts(self, texts: Texts) -> Tensor:
        """(m, E), each of length 1; the words beyond the model's greatest length are cut off."""
        self._need("texts' features", "text", "heads.text")
        given = texts_of(texts)
        with self._computing():
            parts = [features(self.model, "text", self._read(part)).cpu() for part in chunks(given or [""], self.batch)]
        return torch.cat(parts)[: len(given)]

    @property
    def matches_by(self) -> str:
        """What ``match`` gives: "match", "sigmoid" or "cosine"."""
        if not any(map(self.model.lacks, ("text", "fusion", "heads.match"))):
            return "match"
        return "cosine" if self.model.lacks("heads.sigmoid") else "sigmoid"

    def match(self, images: Pictures, texts: Texts) -> Tensor:
        """How well every picture (down) goes with every text (across), (n, m).

        By the model's best means (``matches_by``): ``match``: the probability from 0 to 1 that they belong together, by
        fusion and matching head, each picture pruned under the very text; a pass for every pair. Else ``sigmoid``: the
        same probability by cosine, learnt scale and bias (SigLIP). Else ``cosine``: the cosine of their features from
        -1 to 1, which orders pairs but is no probability: a contrast by softmax learns nothing about a pair alone.
        """
        given = texts_of(texts)
        if self.matches_by == "match":
            found = list(self._matched(images, given))
        else:
            wanted = self.embed_texts(given)
            found = [cosines(seen, wanted) for seen in self.image_features(images)]
            if self.matches_by == "sigmoid":
                found = [self._logits(similar, "sigmoid").sigmoid() for similar in found]
        return torch.cat(found) if found else torch.zeros(0, len(given))

    def retrieve(self, images: Pictures, texts: Texts, top: int = 5) -> list[list[tuple[int, float]]]:
        """For each text the ``top`` pictures that are nearest to it, as (place among ``images``, cosine), best first.

        Of equal ones the first given comes first. A model without contrastive heads compares by ``match`` instead.
        """
        given = texts_of(texts)
        if self.model.lacks("heads.image") or self.model.lacks("heads.text"):
            parts = self._matched(images, given)
        else:
            wanted = self.embed_texts(given)
            parts = (cosines(seen, wanted) for seen in self.image_features(images))
        best, place, done = torch.zeros(len(given), 0), torch.zeros(len(given), 0, dtype=torch.int64), 0
        for part in parts:  # (b, m)
            new = torch.arange(done, done + len(part)).expand(len(given), -1)
            scores, places = torch.cat([best, part.T], 1), torch.cat([place, new], 1)
            order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top]
            best, place, done = scores.gather(1, order), places.gather(1, order), done + len(part)
        return [list(zip(p, s, strict=True)) for p, s in zip(place.tolist(), best.tolist(), strict=True)]

    def classify(
        self,
        images: Pictures,
        classes: Iterable[str] | None = None,
        prompts: Texts | None = None,
        top: int = 5,
    ) -> list[Ranked]:
        """For each picture the ``top`` likeliest classes with their probabilities among all of them.

        Args:
            classes: names for zero-shot classification: each is put into every prompt, and stands for the mean of their
                features; a picture's cosines with them go through the model's temperature, then softmax. None: those
                that the model's own head ``classify`` was trained on.
            prompts: texts with ``{labels}`` where the name belongs; those that models are measured with by default.

        Raises:
            ValueError: no classes and no such head, a class twice, or prompts without classes or ``{labels}``.
        """
        return list(self.classified(images, classes, prompts, top))

    def classified(
        self, images: Pictures, classes: Iterable[str] | None = None, prompts: Texts | None = None, top: int = 5
    ) -> Iterator[Ranked]:
        """As ``classify``, one after the other while pictures are read."""
        if classes is None:
            if self.model.lacks("heads.classify"):
                raise ValueError("the model has no head for classes of its own: give the classes to choose from")
            if prompts is not None:
                raise ValueError("prompts need classes: the model's own head for classes reads no text")
            names, parts = list(self.sizes.classes), self._own_logits(images)
        else:
            names = texts_of(classes)
            wanted = self._class_features(names, ENSEMBLE if prompts is None else texts_of(prompts))
            parts = (
                self._logits(cosines(seen, wanted), "temperature", "sigmoid") for seen in self.image_features(images)
            )

        def ranked(part: Tensor) -> list[Ranked]:
            odds, order = part.softmax(1).sort(dim=1, descending=True, stable=True)  # (b, C)
            rows = zip(odds[:, :top].tolist(), order[:, :top].tolist(), strict=True)
            return [[(names[i], p) for p, i in zip(*row, strict=True)] for row in rows]

        return chain.from_iterable(map(ranked, parts))

    def _class_features(self, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """(C, E)"""
        return ensemble(self.embed_texts(asked(names, prompts)).view(len(prompts), len(names), -1))

    def _own_logits(self, images: Pictures) -> Iterator[Tensor]:
        """(b, C) by the head ``classify``, a batch at a time."""
        for chunk in chunks(pictures_of(images), self.batch):
            with self._computing():
                pooled = self.model.encode_image(self.model.trunk(self._shown(chunk))).pooled
            assert pooled is not None
            yield self._logits(pooled.float(), "classify")

    def _logits(self, features: Tensor, *heads: str) -> Tensor:
        """Through the first of the heads that the model has, in full precision: bf16 would make ties."""
        for head in heads:
            if head in self.model.heads:
                with torch.no_grad():
                    return Tensor.cpu(self.model.heads[head](features.to(self.device)))
        return features

    def _matched(self, images: Pictures, texts: Sequence[str]) -> Iterator[Tensor]:
        """Probabilities (b, m) by the matching head, a batch of pictures at a time."""
        self._need("matching", "text", "fusion", "heads.match")
        with self._computing():
            words = self._read(texts)  # (m, L, D)
        for chunk in chunks(pictures_of(images), self.batch):
            with self._computing():
                trunk = self.model.trunk(self._shown(chunk))
                seen = trunk if self.model.guided else self.model.encode_image(trunk)
                pairs = torch.arange(len(chunk) * len(texts), device=self.device).split(self.batch)
                odds = [
                    match_log_odds(self.model, seen.rows(p // len(texts)), words.rows(p % len(texts))) for p in pairs
                ]
            yield torch.cat(odds).float().sigmoid().view(len(chunk), len(texts)).cpu()

    def _read(self, texts: Sequence[str]) -> Tokens:
        return self.model.encode_text(self.tokenizer(texts).to(self.device))

    def _shown(self, chunk: Sequence[Picture]) -> Tensor:
        """(b, 3, S, S) on the device."""
        return torch.stack([prepared(picture, self.sizes) for picture in chunk]).to(self.device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.no_grad(), autocast(self.device, self.precision):
            yield

    def _need(self, verb: str, *slots: str) -> None:
        lacking = [slot for slot in slots if self.model.lacks(slot)]
        if lacking:
            raise ValueError(f"{verb}: this model lacks {' and '.join(f'model.{slot}' for slot in lacking)}")
