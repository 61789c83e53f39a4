"""A convolutional network by timm whose last feature map is read as tokens. Letters as in core.types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from core.hookspecs import hookimpl
from core.kinds import Backbone
from core.types import Tokens
from plugins.backbones.weights import misshapen, read_weights, refuse
from registry import near
from registry.part import Filled

LAST = 32  # of nearly every network: pixels to a cell of its last feature map, unless told otherwise


class ConvNet(Backbone):
    """A convolutional network; each cell of its last feature map is a token (CoCa, section 3.2, allows both kinds).

    The map is what timm's network ends with before pooling and classifier, the last norm included where it has one. A
    map cannot lose some of its cells, so nothing is pruned within. Networks with BatchNorm see the batch as a whole
    while they are trained: their losses depend on how it is divided between micro-batches and ranks.

    Args:
        net: timm's name of it: convnext_tiny, resnet50 and others; its pixel mean and deviation are used.
        stride: pixels to a cell, down and across; below 32 the last stages are dilated rather than halved, where timm's
            network can do that.
        pooled: ``mean`` over the cells; ``none`` where a pooler pools.
        weights: a safetensors file of timm's weights for it; nothing is downloaded.

    Raises:
        ValueError: timm has no such network, it gives no feature map or not at this stride, weights that do not fit.
    """

    def __init__(
        self,
        *,
        net: str = "convnext_tiny",
        stride: Literal[8, 16, 32] = 32,
        pooled: Literal["mean", "none"] = "mean",
        weights: str = "",
        image_size: Filled[int],
    ):
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        if not timm.is_model(net):
            raise ValueError(f"net: timm has no network named {net!r}.{near(net, timm.list_models())}")
        self.dim, self.grid = _feature_map(net, stride, image_size)
        self.net, self.has_pooled = _made(net, stride), pooled == "mean"
        told = resolve_model_data_config(self.net)
        self.register_buffer("mean", torch.tensor(told["mean"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(told["std"]).view(1, 3, 1, 1) * 255, persistent=False)
        if weights:
            self._load(weights)

    def trunk(self, images: Tensor) -> Tokens:
        cells = self.net((images.float() - self.mean) / self.deviation)  # (B, D, h, w)
        x = cells.flatten(2).transpose(1, 2)  # (B, P, D)
        return Tokens(x, x.mean(1) if self.has_pooled else None, patches=(0, int(x.shape[1])))

    def finish(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        return trunk

    def _load(self, file: str) -> None:
        """Take over all weights but the classifier's."""
        state, own = read_weights(file), self.net.state_dict()
        classifier = str(cast("Any", self.net).pretrained_cfg.get("classifier") or "")
        faults = {
            "lacks": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
            "has": misshapen(state, own),
            "has what this network does not compute,": [
                k for k in state if k not in own and not k.startswith(f"{classifier}.")
            ],
        }
        refuse(file, "network", faults)
        self.net.load_state_dict({k: state[k] for k in own if k in state}, strict=False)


def _made(net: str, stride: int) -> nn.Module:
    """The network without pooling and classifier.

    Raises:
        ValueError: it cannot be had at this stride.
    """
    dilated = {} if stride == LAST else {"output_stride": stride}
    try:
        return cast("nn.Module", timm.create_model(net, num_classes=0, global_pool="", **dilated))
    except (TypeError, AssertionError) as err:
        raise ValueError(f"net: {net!r} cannot be had at stride {stride}; timm makes it at {LAST} alone") from err


def _feature_map(net: str, stride: int, image_size: int) -> tuple[int, tuple[int, int]]:
    """Width and grid of what it makes of a picture, found without computing anything.

    Raises:
        ValueError: it makes no feature map of a picture of this size.
    """
    with torch.device("meta"):
        made = _made(net, stride).eval()
        try:
            shape = tuple(made(torch.empty(1, 3, image_size, image_size)).shape)
        except (AssertionError, RuntimeError) as err:
            raise ValueError(f"net: {net!r} takes no picture of {image_size} pixels: {err}") from err
    widths = {getattr(made, name, 0) for name in ("num_features", "head_hidden_size")}
    if len(shape) != 4 or shape[1] not in widths:
        raise ValueError(f"net: {net!r} is no convolutional network: it makes {shape[1:]} of a picture, no feature map")
    return shape[1], (shape[2], shape[3])


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("convnet", ConvNet)
