"""ViTs of timm with other heads, grids, tokens, norms and pixels: imported with timm's outputs, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

from core import discovery
from core.cli import main
from core.loading import build_model
from core.model import ModelSpec
from core.recipe import read_model
from plugins.backbones.timm_options import TimmOptions
from plugins.backbones.vit import ViT
from registry.part import PartError

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
SMALL = "vit_small_patch16_224"


class Import:
    """A model of timm with random weights in a folder with its configuration, and its import beside it."""

    def __init__(self, folder: Path, arch: str, pixels: dict | None = None, config: bool = True, **arguments):
        torch.manual_seed(0)
        self.model = timm.create_model(arch, pretrained=False, **{"depth": 2, **arguments}).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        size = arguments.get("img_size", self.model.patch_embed.img_size)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.pixels = pixels or HALF
        self.source, self.out = folder / "original", folder / "import"
        self.source.mkdir()
        save_file({k: v.contiguous() for k, v in self.model.state_dict().items()}, self.source / "model.safetensors")
        content = {"architecture": arch, "model_args": {"depth": 2, **arguments}}
        content["pretrained_cfg"] = {"input_size": [3, *self.size], **self.pixels}
        if config:
            (self.source / "config.json").write_text(json.dumps(content))

    def run(self, *more: str) -> int:
        return main(["import", "timm", str(self.source / "model.safetensors"), "--out", str(self.out), *more])

    @property
    def recipe(self) -> dict:
        recipe = yaml.safe_load((self.out / "recipe.yaml").read_text())["model"]["backbone"]
        return {key: value for key, value in recipe.items() if key != "name"}

    def part(self, side: int, **settings) -> ViT:
        settings = {**self.recipe, **settings}
        if settings.get("timm"):
            settings["timm"] = TimmOptions(**settings["timm"])
        return ViT(**settings, image_size=side).eval()

    @torch.no_grad()
    def expected(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (torch.tensor(self.pixels[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        states = self.model.forward_features((images / 255 - mean) / std)
        return states, self.model.forward_head(states, pre_logits=True)


def random_images(height: int, width: int) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


ARCHITECTURES = {
    "ViT-H/14, heads of 80": ("vit_huge_patch14_224", {"img_size": 56, "depth": 1}),
    "CLIP-H/14, heads of 80": ("vit_huge_patch14_clip_224", {"img_size": 56, "depth": 1}),
    "so400m/14, heads of 72, attention pooling": ("vit_so400m_patch14_siglip_224", {"img_size": 56, "depth": 1}),
    "so400m/14, mean of patches": ("vit_so400m_patch14_siglip_gap_224", {"img_size": 56, "depth": 1}),
    "bigG/14, heads of 104": ("vit_gigantic_patch14_clip_224", {"img_size": 28, "depth": 1}),
    "g/14 of DINOv2, SwiGLU": ("vit_giant_patch14_dinov2", {"img_size": 28, "depth": 1}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 70}),
    "registers without [CLS]": ("vit_medium_patch16_reg4_gap_256", {"img_size": 64}),
    "without [CLS], norm after pooling": (SMALL, {"img_size": 64, "class_token": False, "global_pool": "avg"}),
    "[CLS] and mean of patches": (SMALL, {"img_size": 64, "global_pool": "avg"}),
    "[CLS], norm after pooling": (SMALL, {"img_size": 64, "fc_norm": True}),
    "positions without [CLS]": ("deit3_small_patch16_224", {"img_size": 64}),
    "norms of queries and keys": (SMALL, {"img_size": 64, "qk_norm": True}),
    "no bias of queries": (SMALL, {"img_size": 64, "qkv_bias": False}),
    "no positions": (SMALL, {"img_size": 64, "pos_embed": "none"}),
    "3 heads of 128": (SMALL, {"img_size": 64, "num_heads": 3}),
    "GELU by tanh": (SMALL, {"img_size": 64, "act_layer": "gelu_tanh"}),
    "QuickGELU without a norm before": (SMALL, {"img_size": 64, "act_layer": "quick_gelu"}),
    "any size": (SMALL, {"img_size": 64, "dynamic_img_size": True}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_import_computes_what_timm_does(name, tmp_path, capsys):
    arch, arguments = ARCHITECTURES[name]
    example = Import(tmp_path, arch, IMAGENET, **arguments)
    assert example.run() == 0
    printed = capsys.readouterr().out
    assert "guessed" not in printed
    assert f"compared with timm {timm.__version__} on a random image: largest difference " in printed
    for part in (example.part(example.size[0]), reload(example)):  # from the import, and from a run's own weights
        assert_outputs_equal(example, part)


@torch.no_grad()
def assert_outputs_equal(example: Import, part: ViT) -> None:
    images = random_images(*example.size)
    tokens = part(images)
    for value, expected in zip((tokens.x, tokens.pooled), example.expected(images), strict=True):
        atol = 1e-5 * max(1.0, float(expected.abs().max()))  # states of un-normed attention pooling are up to 10
        torch.testing.assert_close(value, expected, atol=atol, rtol=0)


def reload(example: Import) -> ViT:
    """The backbone of a run: settings from its recipe, without the import, and weights from its own file."""
    run = example.out.parent / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(f"extends: {example.out}/recipe.yaml\n")
    part = read_model(str(run / "recipe.yaml"), discovery.load())
    spec = ModelSpec(example.size[0], 8, 10)
    save_file({k: v.contiguous() for k, v in build_model(part, spec).state_dict().items()}, run / "model.safetensors")
    for file in example.out.glob("*.safetensors"):
        file.unlink()
    return build_model(part, spec, str(run)).backbone.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("arguments", "grid"),
    [
        ({"img_size": (512, 128)}, (32, 8)),
        ({"img_size": (64, 256), "class_token": False, "global_pool": "avg"}, (4, 16)),
        ({"img_size": (96, 48), "reg_tokens": 2}, (6, 3)),
    ],
)
def test_positions_of_a_rectangle_are_resized_from_its_grid(arguments, grid, tmp_path, capsys):
    example = Import(tmp_path, SMALL, IMAGENET, **arguments)
    assert example.run() == 0
    assert f"{grid[0]} x {grid[1]} patches. Images here are square" in capsys.readouterr().out
    raw, prefix = example.model.pos_embed, example.model.num_prefix_tokens
    for side in (16 * round((grid[0] * grid[1]) ** 0.5), 112):
        new = [side // 16, side // 16]
        right = resample_abs_pos_embed(raw, new_size=new, old_size=list(grid), num_prefix_tokens=prefix)
        part = example.part(side)
        torch.testing.assert_close(part.vit.pos_embed.data, right.data, atol=0, rtol=0)
        example.model.set_input_size((side, side))
        example.model.pos_embed.data = right
        torch.testing.assert_close(part(random_images(side, side)).x, example.expected(random_images(side, side))[0])


@pytest.mark.parametrize("side", [48, 80])
def test_another_square_size_is_resized_as_by_timm(side, tmp_path):
    example = Import(
        tmp_path, "vit_small_patch14_reg4_dinov2" if side == 80 else SMALL, img_size=70 if side == 80 else 64
    )
    assert example.run() == 0
    side = side // example.model.patch_embed.patch_size[0] * example.model.patch_embed.patch_size[0]
    example.model.set_input_size((side, side))
    torch.testing.assert_close(example.part(side).vit.pos_embed, example.model.pos_embed, atol=0, rtol=0)


def test_a_size_that_the_patch_does_not_divide_is_stated(tmp_path, capsys):
    example = Import(tmp_path, "vit_so400m_patch14_siglip_384", img_size=60, depth=1)
    assert example.run() == 0
    assert "timm leaves out the last 4; images here are 56 pixels wide" in capsys.readouterr().out
    images = random_images(60, 60)
    with torch.no_grad():
        torch.testing.assert_close(example.part(56)(images[..., :56, :56]).x, example.expected(images)[0])
    assert json.loads((example.out / "sizes.json").read_text())["image_size"] == 56


@pytest.mark.parametrize(
    ("arch", "arguments", "message"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "a distillation token"),
        ("eva02_tiny_patch14_224", {}, "is a Eva of timm"),
        ("vit_small_patch16_18x2_224", {}, "has blocks of the kind ParallelThingsBlock"),
        (SMALL, {"img_size": 64, "norm_layer": "rmsnorm"}, "has norms of the kind RmsNorm"),
        (SMALL, {"img_size": 64, "act_layer": "silu"}, "has the activation SiLU"),
        (SMALL, {"img_size": 64, "patch_size": (16, 8)}, "patches of 16 x 8 pixels"),
        (SMALL, {"img_size": 64, "in_chans": 4}, "4 channels"),
        (SMALL, {"img_size": 64, "scale_attn_norm": True}, "has what a ViT here does not compute: blocks.0.attn.norm"),
    ],
)
def test_what_cannot_be_computed_is_refused(arch, arguments, message, tmp_path, capsys):
    example = Import(tmp_path, arch, **arguments)
    assert example.run() == 2
    assert message in capsys.readouterr().err.replace("BEiT or EVA", "EVA (is a Eva of timm)")
    assert not example.out.exists()


def test_without_a_configuration_the_guesses_are_printed(tmp_path, capsys):
    example = Import(tmp_path, "vit_huge_patch14_224", config=False, img_size=56)
    assert example.run() == 0
    printed = capsys.readouterr().out
    for guess in (
        "guessed: 16 heads, as in the public models of width 1280 (80 each)",
        "pixel mean [0.5, 0.5, 0.5]",
        "a square grid of 4 x 4 patches, images of 56 x 56 pixels",
        "activation exact GELU, eps of LayerNorm 1e-06",
        "no configuration was given or found beside the file: --config",
        "nothing was compared with timm: no configuration",
    ):
        assert guess in printed
    assert example.recipe["num_heads"] == 16
    with torch.no_grad():
        torch.testing.assert_close(
            example.part(56)(random_images(56, 56)).x, example.expected(random_images(56, 56))[0]
        )


def test_tensors_determine_tokens_norms_and_pooling_without_a_configuration(tmp_path):
    cases = {
        "a": ("vit_small_patch14_reg4_dinov2", {"img_size": 70}),
        "b": ("deit3_small_patch16_224", {"img_size": 64}),
        "c": (SMALL, {"img_size": 64, "class_token": False, "global_pool": "avg"}),
        "d": (SMALL, {"img_size": 64, "qk_norm": True, "num_heads": 3, "qkv_bias": False}),
        "e": ("vit_base_patch32_clip_224", {"img_size": 64}),
        "f": ("vit_base_patch16_siglip_224", {"img_size": 64}),
        "g": ("vit_giant_patch14_dinov2", {"img_size": 28, "depth": 1}),
    }
    for name, (arch, arguments) in cases.items():
        (tmp_path / name).mkdir()
        example = Import(tmp_path / name, arch, config=False, **arguments)
        assert example.run() == 0
        part = example.part(example.size[0])
        example.pixels = {"mean": (part.mean / 255).tolist(), "std": (part.deviation / 255).tolist()}
        assert_outputs_equal(example, part)


def test_a_grid_that_is_no_square_needs_a_configuration(tmp_path, capsys):
    example = Import(tmp_path, SMALL, config=False, img_size=(96, 48))
    assert example.run() == 2
    assert "'pos_embed' has 18 places for patches: no square; state the images' size" in capsys.readouterr().err
    config = tmp_path / "named.json"
    config.write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 96, 48]}}))
    assert example.run("--config", str(config)) == 0
    assert "6 x 3 patches. Images here are square" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_args": {"depth": 12}}, "model_args.depth is 12; the tensors have 2"),
        ({"model_args": {"num_heads": 5}}, "num_heads is 5; expected a number that divides the width 384"),
        (
            {"pretrained_cfg": {"mean": [124, 116, 104]}},
            "pretrained_cfg.mean is [124, 116, 104]; expected three numbers",
        ),
        ({"model_args": {"window": 3}}, "cannot build 'vit_small_patch16_224' with"),
        (
            {"model_type": "vit"},
            "model_type belongs to the configurations of transformers; expected timm's, with architecture",
        ),
        (
            {"model_args": {"dynamic_img_pad": True, "img_size": 70}},
            "model_args.dynamic_img_pad fills up patches beyond 70 x 70 pixels",
        ),
        ({"architecture": "resnet18"}, "resnet18 is a ResNet of timm; read is timm's VisionTransformer"),
    ],
)
def test_a_configuration_that_disagrees_is_named(change, message, tmp_path, capsys):
    example = Import(tmp_path, SMALL, img_size=64)
    file = example.source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert example.run() == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(file) in error
    assert not example.out.exists()


@torch.no_grad()
@pytest.mark.parametrize("at_creation", [True, False])
@pytest.mark.parametrize("place", ["config", "pretrained_cfg"])
def test_the_pooling_may_be_stated_outside_the_arguments(place, at_creation, tmp_path):
    """A hub configuration states it at its top level; a classifier that is replaced leaves the last norm in place."""
    example = Import(tmp_path, SMALL, img_size=64, **({"global_pool": "avg"} if at_creation else {}))
    if not at_creation:
        example.model.reset_classifier(5, "avg")
    file = example.source / "config.json"
    content = json.loads(file.read_text())
    content["model_args"].pop("global_pool", None)
    (content if place == "config" else content["pretrained_cfg"])["global_pool"] = "avg"
    file.write_text(json.dumps(content))
    assert example.run() == 0
    states, pooled = example.expected(random_images(64, 64))
    tokens = example.part(64)(random_images(64, 64))
    torch.testing.assert_close(tokens.x, states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.pooled, pooled, atol=1e-5, rtol=1e-5)


def test_an_unknown_architecture_is_imported_uncompared(tmp_path, capsys):
    example = Import(tmp_path, SMALL, IMAGENET, img_size=64)
    file = example.source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architecture": "vit_smal_patch16_224"}))
    assert example.run() == 0
    printed = capsys.readouterr().out
    assert "nothing was compared with timm: timm" in printed
    assert "has no architecture 'vit_smal_patch16_224'" in printed
    assert example.recipe["timm"]["mean"] == IMAGENET["mean"]


def test_different_outputs_are_refused_and_leave_nothing(tmp_path, capsys, monkeypatch):
    example = Import(tmp_path, SMALL, img_size=64)
    trunk = ViT.trunk
    monkeypatch.setattr(ViT, "trunk", lambda self, images: trunk(self, images // 2))
    assert example.run() == 2
    assert "refused: compared with timm" in capsys.readouterr().err
    assert not example.out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_a_recipe_that_differs_from_the_configuration_of_its_weights_is_refused(tmp_path):
    example = Import(tmp_path, SMALL, IMAGENET, img_size=64)
    assert example.run() == 0
    for folder in (example.out, example.source, example.source / "model.safetensors"):  # timm's own folder too
        example.part(64, weights=str(folder))
        for change, message in (
            ({"num_heads": 12}, r"config\.json: num_heads is 6, this recipe has 12"),
            ({"timm": None}, r"config\.json: timm\.mean is \[0\.485, 0\.456, 0\.406\], this recipe has \[0\.5, 0\.5"),
            ({"timm": {**IMAGENET, "norm_eps": 1e-3}}, r"timm\.norm_eps is timm's default, this recipe has 0\.001"),
        ):
            with pytest.raises((ValueError, PartError), match=message):
                example.part(64, **{"weights": str(folder), **change})


def test_weights_are_kept_as_they_are(tmp_path):
    example = Import(tmp_path, SMALL, img_size=(96, 48))
    assert example.run() == 0
    for name, tensor in load_file(example.out / "model.safetensors").items():
        assert torch.equal(tensor, example.model.state_dict()[name])
    text = (example.out / "recipe.yaml").read_text()
    assert text.startswith("# patchbay import timm ")
    again = timm.create_model(SMALL, **json.loads((example.out / "config.json").read_text())["model_args"])
    assert again.patch_embed.grid_size == (6, 3)
