"""timm's convolutional networks, with the cells of the last feature map as tokens. Letters as in core.types."""

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
from plugins.backbones.weights import check_fit, read_weights, shape_mismatches
from registry import near
from registry.part import Filled, Pretrained

DEFAULT_STRIDE = 32  # pixels per cell of the last feature map in nearly every network


class ConvNet(Backbone):
    """Convolutional network; each cell of its last feature map is a token (CoCa, section 3.2, allows ViT and ConvNet).

    The map is the input of timm's pooling and classifier, after the final norm if there is one. Convolutions need the
    full map, so patches cannot be pruned. In training, BatchNorm uses statistics of the batch: losses then depend on
    how it is divided among micro-batches and ranks.

    Args:
        net: timm's name of the network, such as convnext_tiny or resnet50; its pixel mean and deviation are used.
        stride: pixels per cell, down and across; below 32 the last stages are dilated instead of strided, if timm's
            network supports it.
        pooled: ``mean`` over the cells; ``none`` for a model with a pooler.
        weights: safetensors file with timm's weights of the network; nothing is downloaded.

    Raises:
        ValueError: timm has no such network, it has no feature map or not at this stride, weights that do not fit.
    """

    def __init__(
        self,
        *,
        net: str = "convnext_tiny",
        stride: Literal[8, 16, 32] = 32,
        pooled: Literal["mean", "none"] = "mean",
        weights: Pretrained = "",
        image_size: Filled[int],
    ):
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        if not timm.is_model(net):
            raise ValueError(f"net: timm has no network named {net!r}.{near(net, timm.list_models())}")
        self.dim, self.grid = _feature_map(net, stride, image_size)
        self.net, self.has_pooled = _build_net(net, stride), pooled == "mean"
        config = resolve_model_data_config(self.net)
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255, persistent=False)
        if weights:
            self._load(weights)

    def trunk(self, images: Tensor) -> Tokens:
        """Run the whole network: (B, 3, H, W) uint8 -> (B, P, D), with pooled ``mean`` also ``pooled`` (B, D)."""
        cells = self.net((images.float() - self.mean) / self.deviation)  # (B, D, h, w)
        x = cells.flatten(2).transpose(1, 2)  # (B, P, D)
        return Tokens(x, x.mean(1) if self.has_pooled else None, patches=(0, int(x.shape[1])))

    def finish(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """Return the tokens (B, P, D) as they are."""
        return trunk

    def _load(self, file: str) -> None:
        """Load all weights except the classifier's."""
        state, parameters = read_weights(file), self.net.state_dict()
        classifier = str(cast("Any", self.net).pretrained_cfg.get("classifier") or "")
        faults = {
            "lacks": [k for k in parameters if k not in state and not k.endswith("num_batches_tracked")],
            "has": shape_mismatches(state, parameters),
            "has what this network does not compute,": [
                k for k in state if k not in parameters and not k.startswith(f"{classifier}.")
            ],
        }
        check_fit(file, "network", faults)
        self.net.load_state_dict({k: state[k] for k in parameters if k in state}, strict=False)


def _build_net(net: str, stride: int) -> nn.Module:
    """Build the network without pooling and classifier.

    Raises:
        ValueError: timm does not support this stride.
    """
    dilated = {} if stride == DEFAULT_STRIDE else {"output_stride": stride}
    try:
        return cast("nn.Module", timm.create_model(net, num_classes=0, global_pool="", **dilated))
    except (TypeError, AssertionError) as err:
        raise ValueError(f"net: {net!r} has no stride {stride}; timm supports only {DEFAULT_STRIDE}") from err


def _feature_map(net: str, stride: int, image_size: int) -> tuple[int, tuple[int, int]]:
    """Return the width and the grid of the feature map, from a run on the meta device.

    Raises:
        ValueError: the network has no feature map for an image of this size.
    """
    with torch.device("meta"):
        network = _build_net(net, stride).eval()
        try:
            shape = tuple(network(torch.empty(1, 3, image_size, image_size)).shape)  # (1, D, h, w)
        except (AssertionError, RuntimeError) as err:
            raise ValueError(f"net: {net!r} does not accept an image of {image_size} pixels: {err}") from err
    widths = {getattr(network, name, 0) for name in ("num_features", "head_hidden_size")}
    if len(shape) != 4 or shape[1] not in widths:
        raise ValueError(f"net: {net!r} is not a convolutional network: its output is {shape[1:]}, not a feature map")
    return shape[1], (shape[2], shape[3])


@hookimpl
def register(add: Callable[[str, type], None]) -> None:
    add("convnet", ConvNet)
