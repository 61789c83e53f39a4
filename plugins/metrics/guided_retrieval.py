"""What a text-guided pruner does to a model without fusion, whose matching is the cosine of picture and text (CoCa).

Retrieval by cosines three times: of pictures pruned under the null guide, as anyone has them who does not know the
text; with the best candidates ordered anew, each picture pruned under the very text that it is compared with; and of
pictures that were not pruned at all. Letters as in plugins.metrics.retrieval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.evaluation import Evaluation, columns, percent
from core.hookspecs import hookimpl
from core.model import Model
from core.types import Tokens
from plugins.metrics.features import cosines, features, image_features
from plugins.metrics.recall import recalls
from plugins.metrics.retrieval import encode, ranks, reranks
from plugins.metrics.settings import RetrievalSettings

WAYS = {"null_guide": "null guide", "own_text": "best ordered anew under their text", "unpruned": "unpruned"}


@hookimpl
def evaluate(evaluation: Evaluation) -> dict[str, Any] | None:
    """Section ``guided``: recalls by each way; None for a model with a fusion, without guided pruner or contrast."""
    model, settings = evaluation.model, evaluation.settings
    chosen = evaluation.settings_for(RetrievalSettings)
    if not model.guided or model.fusion is not None or any(map(model.lacks, ("heads.image", "heads.text"))):
        return None
    examples = evaluation.examples(settings.split, chosen.candidates)
    words, trunk, image = encode(evaluation, examples)
    pictures, texts = features(model, "image", image), features(model, "text", words)  # (n, E) each
    similar = cosines(pictures, texts)  # (n, n), pictures by texts
    with model.unpruned():
        whole = cosines(image_features(evaluation, examples), texts)

    def anew(scores: Tensor, order: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Ranks (n,); ``order`` makes pictures and texts of a query and its candidates."""
        top = scores.topk(min(chosen.rerank, len(examples)), dim=1).indices  # (n, k)
        query = torch.arange(len(top), device=top.device).unsqueeze(1).expand_as(top)
        rows, columns = order(query.flatten(), top.flatten())  # (n k,) each
        pairs = zip(rows.split(settings.batch), columns.split(settings.batch), strict=True)
        found = [under_text(model, trunk.rows(some), words.rows(others)) for some, others in pairs]
        return reranks(scores, top, torch.cat(found).view(top.shape))

    section: dict[str, Any] = {"candidates": len(examples)}
    section["null_guide"] = recalls(ranks(similar), ranks(similar.T))
    section["own_text"] = recalls(anew(similar, lambda i, j: (i, j)), anew(similar.T, lambda j, i: (i, j)))
    section["unpruned"] = recalls(ranks(whole), ranks(whole.T))
    return {"guided": section}


def under_text(model: Model, trunk: Tokens, words: Tokens) -> Tensor:
    """Cosines (B,) of pictures with texts, row by row, each picture pruned under the very text."""
    pictures = features(model, "image", model.encode_image(trunk, words.pooled))  # (B, E)
    return (pictures * features(model, "text", words)).sum(-1)


@hookimpl
def format_report(report: dict[str, Any]) -> dict[str, list[str]] | None:
    section = report.get("guided")
    if not section:
        return None
    rows: list[tuple[str, ...]] = [("% R@1", "picture to text", "text to picture")]
    rows += [(label, *(percent(section[way][f"{side}_r1"]) for side in ("i2t", "t2i"))) for way, label in WAYS.items()]
    return {"guided": [f"Retrieval among {section['candidates']}, by what the pruner is told", *columns(rows)]}
