"""Multiply-adds (MACs) of a module on real tensors, by fvcore's trace and more handles.

One multiply-add is one MAC. Counted: convolutions, matrix products, attention (fused or not). Not counted, as in the
papers' figures: norms, activations, softmax, sums, indexing, copies. A causal mask does not reduce the count.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import addmm_flop_jit, conv_flop_jit, einsum_flop_jit, get_shape, linear_flop_jit
from torch import Tensor, nn

from core.model import Model
from core.runtime import autocast
from core.types import Text, Tokens

# Operations that are not counted, beyond those that fvcore ignores: norms, element-wise operations, reductions, and
# creating or moving data. Operations in place (a trailing underscore) are added below.
_IGNORABLE = """
layer_norm rms_norm group_norm batch_norm instance_norm linalg_vector_norm norm
add sub rsub mul div neg pow square sqrt rsqrt reciprocal exp log log1p abs sign sin cos tanh sigmoid relu gelu silu
softplus hardtanh leaky_relu erf softmax log_softmax log_sigmoid clamp_min clamp_max minimum maximum fmod floor ceil
round sum mean amax amin argmax argmin min max var std cumsum all any topk sort argsort multinomial where
lt le ne eq gt ge logical_not logical_and logical_or bitwise_and bitwise_or bitwise_not __or__ __and__
gather scatter scatter_add scatter_reduce index_select index_add take_along_dim masked_fill masked_scatter tril triu
embedding one_hot repeat repeat_interleave expand_as broadcast_to flip reshape_as view_as movedim swapaxes unflatten
unfold clone alias lift_fresh pad pixel_unshuffle dropout feature_dropout numpy_T mT mH result_type
rand rand_like randn randn_like randint randperm bernoulli normal uniform ones_like new_ones fill zero eye
new_tensor scalar_tensor tensor item _local_scalar_dense Bool Float numel dim len is_nonzero meshgrid
upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
adaptive_avg_pool2d adaptive_avg_pool1d avg_pool2d max_pool2d grid_sampler
"""
IGNORABLE = frozenset(f"aten::{name}{suffix}" for name in _IGNORABLE.split() for suffix in ("", "_"))


@dataclass(frozen=True)
class MacCount:
    """MACs of one call."""

    total: int
    parts: dict[str, int] = field(default_factory=dict)  # they sum to total
    uncounted: dict[str, int] = field(default_factory=dict)  # operations of unknown cost, taken as 0, and how often


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """QK^T and the weighted sum of values: B H N M (d + e)."""
    query, key, value = (get_shape(i) for i in inputs[:3])  # (..., N, d), (..., M, d), (..., M, e)
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _product(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Output elements times the length of the first factor's rows; right for broadcast batches and vectors too."""
    return math.prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]


def _added_product(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return _product(inputs[1:], outputs)


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Product of the sizes of all letters, for two factors; fvcore's handle rounds to four digits."""
    terms = inputs[0].toIValue().replace(" ", "").split("->")[0].split(",")
    shapes = [get_shape(value) for value in inputs[1].node().inputs()]
    if len(terms) != 2 or "..." in "".join(terms):
        return int(einsum_flop_jit(inputs, outputs))
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values())


HANDLES: dict[str, Callable[[Sequence[Any], Sequence[Any]], Any]] = {
    "aten::_convolution": conv_flop_jit,
    "aten::linear": linear_flop_jit,
    "aten::addmm": addmm_flop_jit,
    "aten::scaled_dot_product_attention": _attention,
    "aten::matmul": _product,
    "aten::mm": _product,
    "aten::bmm": _product,
    "aten::mv": _product,
    "aten::dot": _product,
    "aten::baddbmm": _added_product,
    "aten::addbmm": _added_product,
    "aten::addmv": _added_product,
    "aten::einsum": _einsum,
}


def count(
    module: nn.Module, inputs: tuple[Tensor, ...], parts: Mapping[str, Sequence[nn.Module]] | None = None
) -> MacCount:
    """Count one call ``module(*inputs)``, tensors of any shape, in eval mode and the precision of the weights.

    Args:
        parts: submodules by the name of their sum. A submodule inside one of another part counts for its own part
            only; the remainder is ``other``, left out if it is 0.
    """
    with counting_mode(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on shapes
        analysis = FlopCountAnalysis(module, inputs)
        analysis.clear_op_handles()  # a handle of None would leave fvcore's counting of norms in place
        analysis.set_op_handle(**dict.fromkeys(IGNORABLE), **HANDLES)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_module = analysis.by_module()
        unknown = analysis.unsupported_ops()
    total = int(by_module[""])
    sums: dict[str, int] = {}
    claimed: list[tuple[str, str]] = []  # module name, part; the innermost first
    names = {id(child): name for name, child in module.named_modules()}
    for part, modules in (parts or {}).items():
        sums[part] = 0
        claimed += [(names[id(child)], part) for child in modules]
    claimed.sort(key=lambda pair: -pair[0].count("."))
    for place, (name, part) in enumerate(claimed):
        inner = [n for n, _ in claimed[:place] if n.startswith(f"{name}.")]
        outermost = [n for n in inner if not any(n.startswith(f"{m}.") for m in inner)]
        sums[part] += int(by_module[name]) - sum(int(by_module[n]) for n in outermost)
    rest = total - sum(sums.values())
    return MacCount(total, {**sums, "other": rest} if parts and rest else sums, dict(unknown))


@contextmanager
def counting_mode(module: nn.Module) -> Iterator[None]:
    """Context with eval mode, without gradients, autocast and the fused kernels of nn.MultiheadAttention."""
    training, fast = module.training, torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), autocast(device, "fp32"):
            yield
    finally:
        module.train(training)
        torch.backends.mha.set_fastpath_enabled(fast)


Counter = Callable[[nn.Module, tuple[Tensor, ...], Mapping[str, Sequence[nn.Module]]], MacCount]


class PairInference(nn.Module):
    """Inference for images each paired with a text: trunk, text encoder, blocks pruned by this text, fusion.

    Without a fusion, the heads of the pooled states run, and the decoder, if there is one, with the head ``words`` at
    every position. Without a text encoder the decoder's unimodal half runs once, for guide, feature and words.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Run the inference on (B, 3, H, W) uint8, (B, L) int64 and (B, L) bool.

        Returns:
            joint states (B, L, D), image states (B, N, D) or word logits (B, L, V); then the pooled states (B, D),
            because a trace drops computations without an output.
        """
        model, text = self.model, Text(ids, mask)
        words: Tokens | None = None if model.text_tower is None else model.encode_text(text)
        image = model.encode_image(model.trunk(images), None if words is None else words.pooled)
        pooled = () if image.pooled is None else (image.pooled,)
        if model.fusion is not None and words is not None:
            return model.fusion(words, image).text.x, *pooled
        states = {"image": image.pooled, "classify": image.pooled, "text": None if words is None else words.pooled}
        sides = [model.heads[name](x) for name, x in states.items() if x is not None and name in model.heads]
        if model.decoder is None:
            return image.x, *pooled, *sides
        alone = words if words is not None and model.text is None else model.decoder.encode_text(text)
        joint = model.decoder(alone, image).x
        return model.heads["words"](joint) if "words" in model.heads else joint, *pooled, *sides

    def count(self, images: Tensor, text: Text, by: Counter = count) -> MacCount:
        """MACs by slot of the model for (B, 3, H, W) images and (B, L) texts, with pruners as a slot of their own."""
        model = self.model
        slots: dict[str, Sequence[nn.Module]] = {
            "backbone": [model.backbone],
            "pruner": list(model.pruners),
            **({} if model.pooler is None else {"poolers": [model.pooler]}),
            **{
                name: [] if part is None else [part]
                for name, part in (("text", model.text), ("fusion", model.fusion), ("decoder", model.decoder))
            },
            "heads": [model.heads],
        }
        counted = by(self, (images, text.ids, text.mask), slots)
        # methods of the backbone run outside of any module's call: their own products are the remainder
        parts = dict(counted.parts)
        parts["backbone"] += parts.pop("other", 0)
        return MacCount(counted.total, parts, counted.uncounted)
