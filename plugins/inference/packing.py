"""Linear layers with weights in the layout of the processor's kernels, for inference only."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime import logger


def pack(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Replace linear layers by packed ones, in place. The model cannot be trained or saved afterwards.

    On a CPU with oneDNN, weights are stored in the layout of its kernels. Without it torch uses MKL for fp32, two to
    three times slower on processors not made by Intel, and reorders bf16 weights at every call. If oneDNN does not
    support the type, a warning is logged and the layout is unchanged. On other devices only bf16 has an effect:
    weights take half the memory and need no cast by autocast.

    Args:
        dtype: of weights, products and outputs: float32 or bfloat16.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:  # a subclass may do more
                setattr(module, name, PackedLinear(child, dtype))


class PackedLinear(nn.Module):
    """Linear layer with packed weights: (..., in) of any floating type -> (..., out)."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        weight = linear.weight.detach().to(dtype).contiguous()
        self.bytes = weight.nbytes  # of memory that each call reads
        self.by_onednn = weight.device.type == "cpu" and can_pack(dtype)
        if self.by_onednn:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.weight = weight  # not a buffer: oneDNN's layout has no strides, which moving and saving need
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # (..., in)
        if not self.by_onednn:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return True if oneDNN packs the weights of linear maps in ``dtype`` on this CPU; found by packing one."""
    if not torch.backends.mkldnn.is_available():
        return False
    ones = torch.ones(8, 8, dtype=dtype, device="cpu")
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(ones)
        torch.ops.mkldnn._linear_pointwise(ones, packed, None, "none", [], "")
    except Exception as err:  # both operators are private: a release of torch may drop or change them
        name = str(dtype).removeprefix("torch.")
        logger.warning("Linear maps in %s are not packed, so they are slower: %s", name, str(err).splitlines()[0])
        return False
    return True
