"""Recognition of checkpoints by the names of their tensors, for errors that name them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from core.files import paths
from plugins.importing.checkpoint_file import ForeignCheckpoint

ACCEPTED = "open_clip's coca_* models, timm's ViTs and BERT"
TOWER = (
    "Its image encoder alone is read by model.backbone of a recipe: {{name: vit, weights: {file}, style: clip}} for "
    "OpenAI's weights, style: openclip for others with exact GELU, with the sizes and num_heads of the model"
)
CONVNET = "It needs no import: set model.backbone to {{name: convnet, net: ITS NAME IN TIMM, weights: {file}}}"
OTHER = f"Read are {ACCEPTED}"
MERGE = "Merge it into its base model first, and import the result"


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint."""

    name: str
    patterns: tuple[str, ...]  # each matches the beginning of at least one tensor's name
    verb: str = ""  # the kind of ``patchbay import`` that reads it
    advice: str = OTHER


# the first whose patterns all match counts
KINDS = (
    Kind("a LoRA file", (r".*\blora_(A|B|up|down|embedding)",), advice=MERGE),
    Kind("a model of Patchbay", (r"(backbone|decoder|text)\.(vit|net|words|bert)\.",), advice="It needs no import"),
    Kind("open_clip's CoCa", (r"text_decoder\.(cross_attn|resblocks)\.",), "open_clip"),
    Kind("open_clip's CoCa", (r"visual\.attn_pool\.query", r"text\.cls_emb"), "open_clip"),
    Kind(
        "a CLIP of open_clip with timm's image encoder and without a caption decoder",
        (r"visual\.trunk\.", r"logit_scale"),
        advice="The image encoder alone: save the tensors below visual.trunk. without that prefix and import timm",
    ),
    Kind(
        "a CLIP of OpenAI or open_clip without a caption decoder (a residual network as image encoder)",
        (r"visual\.layer1\.", r"(text\.)?token_embedding\."),
    ),
    Kind(
        "a CLIP of OpenAI or open_clip without a caption decoder",
        (
            r"visual\.(conv1|class_embedding)",
            r"(text\.)?(token_embedding|transformer\.resblocks)\.|text\.transformer\.",
        ),
        advice=f"For captions import a coca_* model. {TOWER}",
    ),
    Kind(
        "the image encoder of a CLIP of OpenAI or open_clip",
        (r"visual\.conv1\.weight", r"visual\.transformer\."),
        advice=TOWER,
    ),
    Kind("transformers' BLIP-2 (Blip2Model)", (r"qformer\.", r"query_tokens|vision_model\.")),
    Kind(
        "transformers' BLIP (BlipModel)", (r"vision_model\.", r"text_(decoder|encoder|model)\.(bert|encoder\.layer\.)")
    ),
    Kind(
        "transformers' CLIPModel or SiglipModel, without a caption decoder",
        (r"vision_model\.", r"text_model\."),
        advice=f"{OTHER}. The same weights in timm's or open_clip's format are on the hub for most models",
    ),
    Kind(
        "transformers' image encoder of a CLIP or SigLIP (CLIPVisionModel)",
        (r"(vision_model\.)?embeddings\.(class_embedding|patch_embedding\.)",),
        advice=f"{OTHER}. timm has the same image encoders (vit_*_clip_*, vit_*_siglip_*): import timm",
    ),
    Kind(
        "transformers' ViTModel, DeiT, BEiT or DINOv2",
        (r"(\w+\.)?embeddings\.(cls_token|position_embeddings$|patch_embeddings\.)", r"(\w+\.)?(encoder\.)?layers?\."),
        advice=f"{OTHER}. timm has the same weights in its own format: import timm",
    ),
    Kind("transformers' DistilBERT", (r"(distilbert\.)?transformer\.layer\.\d+\.attention\.q_lin",)),
    Kind("transformers' RoBERTa", (r"(xlm-)?(roberta|camembert)\.",)),
    Kind("transformers' ALBERT", (r"(albert\.)?encoder\.albert_layer_groups\.",)),
    Kind("transformers' ELECTRA", (r"electra\.",)),
    Kind("transformers' T5", (r"encoder\.block\.\d+\.layer\.0\.SelfAttention",)),
    Kind("transformers' GPT-2", (r"(transformer\.)?h\.\d+\.attn\.c_attn",)),
    Kind("transformers' LLaMA or a relative", (r"(model\.)?layers\.\d+\.self_attn\.q_proj",)),
    Kind(
        "BERT", (r"(bert\.)?embeddings\.word_embeddings\.", r"(bert\.)?encoder\.layer\.\d+\.attention\.self\."), "bert"
    ),
    Kind("timm's DeiT with a distillation token", (r"dist_token", r"blocks\.")),
    Kind("timm's BEiT or EVA", (r"blocks\.\d+\.attn\.(q_bias|relative_position_bias|rope|q_proj)",)),
    Kind("a Swin Transformer", (r"layers\.\d+\.(\d+\.)?(blocks|downsample)\.", r"patch_embed\.")),
    Kind("timm's ViT", (r"patch_embed\.proj\.", r"blocks\.\d+\.attn\.qkv\."), "timm"),
    Kind("a convolutional network of timm (ConvNeXt)", (r"stem(\.|_)\d", r"stages\."), advice=CONVNET),
    Kind("a convolutional network (ResNet)", (r"conv1\.", r"layer1\.0\.conv1\."), advice=CONVNET),
    Kind("a convolutional network of timm (EfficientNet)", (r"conv_stem\.", r"blocks\.0\.0\."), advice=CONVNET),
    Kind("a convolutional network of timm", (r"(stem|s1)\.", r".*\bconv\w*\.(weight|conv\.weight)"), advice=CONVNET),
)


def check_kind(checkpoint: ForeignCheckpoint, verb: str) -> None:
    """Check that a checkpoint is of the kind that ``patchbay import VERB`` reads, or of no kind that is known.

    Raises:
        ValueError: it is of another kind; states which, and what to do with it.
    """
    file = checkpoint.file
    kind = recognise(checkpoint)
    if kind is None and paths.isfile(os.path.join(os.path.dirname(file), "adapter_config.json")):
        raise ValueError(f"{file}: this is an adapter (adapter_config.json is beside it). {MERGE}.")
    if kind is None or kind.verb == verb:
        return
    advice = f"Import it by: patchbay import {kind.verb} {file}" if kind.verb else kind.advice.format(file=file)
    raise ValueError(f"{file}: this is {kind.name}. {advice}.")


def recognise(checkpoint: ForeignCheckpoint) -> Kind | None:
    """Return the kind of a checkpoint by the names of its tensors; None if it is not known."""
    for kind in KINDS:
        if all(any(re.match(pattern, name) for name in checkpoint.tensors) for pattern in kind.patterns):
            return kind
    return None
