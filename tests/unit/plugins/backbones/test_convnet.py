"""A ConvNet's last feature map as tokens: timm's own map, its weights, its place in CoCa."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from core import discovery
from core.recipe import RecipeErrors, read
from core.run import build
from plugins.backbones.convnet import ConvNet

RECIPE = str(Path(__file__).parents[4] / "projects" / "coca" / "convnet.yaml")
SIDE = 64


def convnet(net="test_convnext2", **settings):
    torch.manual_seed(0)
    return ConvNet(net=net, image_size=SIDE, **settings).eval()


def pictures(count=2):
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("net", "stride", "dim", "grid"),
    [
        ("test_convnext2", 8, 128, (8, 8)),
        ("test_convnext2", 32, 128, (2, 2)),
        ("test_resnet", 16, 96, (4, 4)),
        ("mobilenetv3_small_050", 32, 1024, (2, 2)),  # its last convolution stands behind the features
    ],
)
@torch.no_grad()
def test_tokens_are_the_cells_row_by_row(net, stride, dim, grid):
    backbone, images = convnet(net, stride=stride), pictures()
    mean, deviation = (torch.tensor(backbone.net.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    cells = backbone.net((images / 255 - mean) / deviation)  # (B, D, h, w)
    tokens = backbone(images)
    assert (backbone.dim, backbone.grid) == (dim, grid) == (cells.shape[1], cells.shape[2:])
    assert tokens.patches == (0, grid[0] * grid[1])
    for row, column in ((0, 0), (0, grid[1] - 1), (grid[0] - 1, 0)):
        token = tokens.x[:, row * grid[1] + column]
        torch.testing.assert_close(token, cells[:, :, row, column], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.pooled, cells.mean((2, 3)), atol=1e-4, rtol=1e-4)
    assert convnet(net, stride=stride, pooled="none")(images).pooled is None


@torch.no_grad()
def test_timms_weights_are_taken_over_without_the_classifier(tmp_path):
    theirs = timm.create_model("test_resnet").eval()
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    file = str(tmp_path / "resnet.safetensors")
    save_file(theirs.state_dict(), file)
    backbone, images = convnet("test_resnet", weights=file), pictures()
    assert torch.equal(
        backbone.trunk(images).x, backbone.net((images.float() - backbone.mean) / backbone.deviation).flatten(2).mT
    )
    expected = theirs.forward_features((images.float() - backbone.mean) / backbone.deviation).flatten(2).mT
    torch.testing.assert_close(backbone(images).x, expected)


@pytest.mark.parametrize(
    ("net", "change", "message"),
    [
        ("test_resnet", lambda t: t.pop("conv1.0.weight"), "does not fit this network: lacks conv1.0.weight"),
        ("test_resnet", lambda t: t.update(more=torch.zeros(1)), "has what this network does not compute, more"),
        ("test_resnet", lambda t: t.update({"bn1.bias": torch.zeros(2)}), r"has bn1.bias \(2,\) for \(\d+,\)"),
    ],
)
def test_weights_that_do_not_fit(net, change, message, tmp_path):
    state = timm.create_model(net).state_dict()
    change(state)
    file = str(tmp_path / "net.safetensors")
    save_file(state, file)
    with pytest.raises(ValueError, match=message):
        convnet(net, weights=file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "convnet_tiny"}, "timm has no network named 'convnet_tiny'. Did you mean 'convnext_tiny'"),
        ({"net": "vit_tiny_patch16_224"}, "'vit_tiny_patch16_224' does not accept an image of 64 pixels"),
        ({"net": "densenet121", "stride": 8}, "'densenet121' has no stride 8; timm supports only 32"),
        ({"net": "test_resnet", "weights": "nowhere.safetensors"}, "nowhere.safetensors: cannot be read"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        convnet(**settings)


def test_a_transformer_gives_no_feature_map():
    with pytest.raises(ValueError, match="is not a convolutional network: its output is"):
        ConvNet(net="vit_tiny_patch16_224", image_size=224)


def test_nothing_is_pruned_within():
    with pytest.raises(RecipeErrors, match="backbone 'convnet' takes no such setting"):
        read(RECIPE, ["model.backbone.prune=[{after_block: 1, pruner: random}]"], discovery.load())


def test_a_few_steps_of_the_recipe_bring_the_losses_down():
    built = build(read(RECIPE, ["data.train_size=64", "train.batch=8"], discovery.load()))
    assert built.model.backbone.grid == (8, 8)
    batch = built.data.batch(0, size=8, seed=0, reads=built.objectives.batch_fields)
    learner = torch.optim.AdamW(built.objectives.parameters(), lr=1e-3)
    totals = []
    for _ in range(8):
        total, _ = built.objectives.train()(batch)
        learner.zero_grad()
        total.backward()
        learner.step()
        totals.append(float(total.detach()))
    assert all(p.grad is not None for p in built.model.backbone.parameters())
    assert totals[-1] < 0.9 * totals[0]
