"""Linear maps laid out for the processor that is to run them: for inference alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.runtime import can_pack


def pack(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Exchange the model's linear maps for packed ones, in place: it can be run from then on, not trained or saved.

    On a CPU with oneDNN, weights in the order in which its kernels read them; torch leaves fp32 products to MKL, which
    is two to three times slower on a processor that is not Intel's, and lays bf16 weights out anew at every call.
    A CPU whose oneDNN refuses the type multiplies plainly, after one logged sentence.
    Elsewhere bf16 alone changes anything: weights are half as long, and no autocast has to shorten them.

    Args:
        dtype: of weights and products: float32 or bfloat16. What comes out is of this type too.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:  # a subclass may do more
                setattr(module, name, PackedLinear(child, dtype))


class PackedLinear(nn.Module):
    """A linear map whose weights nobody else reads: (..., in) of any floating type -> (..., out)."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        weight = linear.weight.detach().to(dtype).contiguous()
        self.bytes = weight.nbytes  # that each use reads
        self.by_onednn = weight.device.type == "cpu" and can_pack(dtype)
        if self.by_onednn:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.weight = weight  # no buffer: oneDNN's layout has no strides, which moving and saving would ask for
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if not self.by_onednn:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out
