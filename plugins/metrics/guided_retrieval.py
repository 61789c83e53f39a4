"""Effect of a text-guided pruner on a model without fusion, which matches by the cosine of image and text (CoCa).

Retrieval by cosines is measured three times: with images pruned under the null guide, as when the text is not known;
with the best candidates ranked again, each image pruned under the text that it is compared with; and with unpruned
images. Letters as in plugins.metrics.retrieval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation
from core.hookspecs import hookimpl
from core.model import Model
from core.types import Tokens
from plugins.hooks.report_table import columns, percent
from plugins.metrics.features import cosines, features, image_features
from plugins.metrics.recall import recalls
from plugins.metrics.rerank import ranks, reranks
from plugins.metrics.retrieval import encode
from plugins.metrics.settings import RetrievalSettings

WAYS = {"null_guide": "null guide", "own_text": "best re-ranked under their text", "unpruned": "unpruned"}


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``guided``; None with a fusion, without a guided pruner or contrastive heads, or for under 2 images."""
    model, settings = evaluation.model, evaluation.settings
    chosen = evaluation.settings_for(RetrievalSettings)
    if not model.guided or model.fusion is not None or any(map(model.lacks, ("heads.image", "heads.text"))):
        return None
    examples = evaluation.examples(settings.split, chosen.candidates)
    if len(examples) < 2:
        return None
    words, trunk, image = encode(evaluation, examples)
    pictures, texts = features(model, "image", image), features(model, "text", words)  # (n, E) each
    similar = cosines(pictures, texts)  # (n, n), pictures by texts
    with model.unpruned():
        whole = cosines(image_features(evaluation, examples), texts)

    def rerank(scores: Tensor, order: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Ranks (n,); ``order`` returns the rows of images and of texts for a query and its candidates."""
        top = scores.topk(min(chosen.rerank, len(examples)), dim=1).indices  # (n, k)
        query = torch.arange(len(top), device=top.device).unsqueeze(1).expand_as(top)
        rows, columns = order(query.flatten(), top.flatten())  # (n k,) each
        pairs = zip(rows.split(settings.batch), columns.split(settings.batch), strict=True)
        cosine = [under_text(model, trunk.rows(some), words.rows(others)) for some, others in pairs]
        return reranks(scores, top, torch.cat(cosine).view(top.shape))

    section: dict[str, Any] = {"candidates": len(examples)}
    section["null_guide"] = recalls(ranks(similar), ranks(similar.T))
    section["own_text"] = recalls(rerank(similar, lambda i, j: (i, j)), rerank(similar.T, lambda j, i: (i, j)))
    section["unpruned"] = recalls(ranks(whole), ranks(whole.T))
    return {"guided": section}


def under_text(model: Model, trunk: Tokens, words: Tokens) -> Tensor:
    """Cosines (B,) of images with texts, row by row, each image pruned under its text."""
    pictures = features(model, "image", model.encode_image(trunk, words.pooled))  # (B, E)
    return (pictures * features(model, "text", words)).sum(-1)


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("guided")
    if not section:
        return None
    rows: list[tuple[str, ...]] = [("% R@1", "image to text", "text to image")]
    rows += [(label, *(percent(section[way][f"{side}_r1"]) for side in ("i2t", "t2i"))) for way, label in WAYS.items()]
    return {"guided": [f"Retrieval among {section['candidates']}, by the pruner's guide", *columns(rows)]}
