"""Contracts of parts and of data, as checks that third parties import too."""

from core.contracts.data import check_data, check_tokenizer
from core.contracts.parts import (
    check_backbone,
    check_decoder,
    check_fusion,
    check_head,
    check_objective,
    check_pooler,
    check_pruner,
    check_text_encoder,
)

__all__ = [
    "check_backbone",
    "check_data",
    "check_decoder",
    "check_fusion",
    "check_head",
    "check_objective",
    "check_pooler",
    "check_pruner",
    "check_text_encoder",
    "check_tokenizer",
]
