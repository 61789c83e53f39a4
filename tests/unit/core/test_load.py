"""``core.load``: a model out of its folder alone, its verbs, and training that starts from such a folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import COCA, COPA, paint, tensor, train_run
from torch import Tensor

from core import discovery, load
from core import run as running
from core.loading import build_model, load_run
from core.model import ModelSpec
from core.recipe import RecipeErrors, read
from core.training.checkpoint import warm_start
from plugins.commands.evaluate import evaluate
from plugins.compute.dry_run import data_spec
from plugins.data.annotations.image_source import SourceFiles
from plugins.data.coco import Coco
from plugins.generation.caption import caption
from plugins.generation.settings import Generation
from plugins.heads.scale_bias import ScaleBias
from plugins.inference.inputs import preprocess
from plugins.inference.predictor import Predictor
from plugins.inference.settings import generation_settings
from plugins.metrics.features import features
from plugins.metrics.zero_shot import ENSEMBLE
from registry.part import Part, Pretrained, without_pretrained

CLASSES = ["red star", "blue ring", "green cross"]


def near(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_run(tmp_path_factory.mktemp("coca"), COCA)


@pytest.fixture(scope="module")
def copa(tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_run(tmp_path_factory.mktemp("copa"), COPA)


@pytest.fixture(scope="module")
def captioner(coca: str) -> Predictor:
    return load(coca, "cpu", "fp32")


@pytest.fixture(scope="module")
def matcher(copa: str) -> Predictor:
    return load(Path(copa), "cpu", "fp32")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return paint(tmp_path_factory.mktemp("pictures"))


# the folder


def test_a_run_leaves_its_sizes(coca):
    sizes = json.loads((Path(coca) / "sizes.json").read_text())
    assert {name: sizes[name] for name in ("image_size", "text_length", "crop")} == {
        "image_size": 64,
        "text_length": 20,
        "crop": False,
    }
    assert sizes["vocabulary"] == load_run(coca)[1].tokenizer.vocabulary
    assert ModelSpec.read(coca) == ModelSpec.of(load_run(coca)[1])


def test_loaded_equals_the_run(coca, captioner):
    _, data, model = load_run(coca)
    examples = data.held_out("test", 4)
    images, words = torch.stack([example.image for example in examples]), [example.caption for example in examples]
    with torch.no_grad():
        near(captioner.embed_images(images), features(model.eval(), "image", model.encode_image(model.trunk(images))))
        near(captioner.embed_texts(words), features(model, "text", model.encode_text(data.tokenizer(words))))
    texts = [text for text, _ in caption(model, data.tokenizer, images, Generation(max_length=20))]
    assert captioner.caption(images) == texts
    assert not captioner.model.training


@pytest.mark.cpu_choice
def test_bf16_is_close(copa, matcher, files):
    short = load(copa, "cpu", "bf16")
    assert (short.embed_images(files) * matcher.embed_images(files)).sum(1).min() > 0.99
    assert (short.match(files, CLASSES) - matcher.match(files, CLASSES)).abs().max() < 0.05
    assert len(set(short.embed_images(files).flatten().tolist())) == 5 * 8  # no bf16 in what is compared
    assert len(short.caption(files, beams=2)) == 5


def test_photos_may_be_gone(tmp_path, files):
    for place, file in enumerate(files * 4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "photos" / f"{place}.png")
    said = [{"image": f"{i}.png", "caption": f"picture number {i}"} for i in range(20)]
    (tmp_path / "said.json").write_text(json.dumps(said))
    source = f"{{images: {tmp_path / 'photos'}, captions: [{tmp_path / 'said.json'}]}}"
    data = f"data: {{name: coco, sources: [{source}], image_size: 64, held_out: 0.2}}"
    folder = train_run(tmp_path / "made", re.sub("data: .*", data, COCA))
    shutil.rmtree(tmp_path / "photos")
    (tmp_path / "said.json").unlink()
    model = load(folder, "cpu")
    assert len(model.caption(files[:2], max_length=3)) == 2
    assert model.embed_texts("picture number 3").shape == (1, 32)


def test_an_import_needs_no_more_than_a_model_in_its_recipe(tmp_path, coca, files):
    folder = tmp_path / "imported"
    shutil.copytree(coca, folder)
    whole = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(whole[: whole.index("objectives:")])
    sizes = json.loads((folder / "sizes.json").read_text())
    (folder / "sizes.json").write_text(json.dumps({key: sizes[key] for key in sizes if key not in ("crop", "classes")}))
    model = load(folder, "cpu")
    assert model.sizes.crop
    assert model.embed_images(files).shape == (5, 32)


class Started:
    """A part with a file of pretrained weights, and a text that is no file."""

    def __init__(self, *, weights: Pretrained = "", name: str = "", keep_rate: float = 1.0, **parts: object):
        pass


def test_files_that_a_run_started_from_may_be_gone():
    inner = Part(Started, {"name": "kept", "weights": "gone.safetensors", "keep_rate": 0.5})
    outer = Part(Started, {"backbone": inner, "heads": {"a": inner}, "prune": [inner], "weights": "", "embed_dim": 3})
    bare = without_pretrained(outer)
    parts = [bare.settings["backbone"], bare.settings["heads"]["a"], bare.settings["prune"][0]]
    assert all(part.settings == {"name": "kept", "weights": "", "keep_rate": 0.5} for part in parts)
    assert bare.settings["embed_dim"] == 3
    assert inner.settings["weights"] == "gone.safetensors"


def spoil(folder: str, target: Path, name: str, content: str | None) -> Path:
    shutil.copytree(folder, target)
    if content is None:
        (target / name).unlink()
    else:
        (target / name).write_text(content)
    return target


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("recipe.yaml", None, "holds no run: there is no recipe.yaml in it"),
        ("recipe.yaml", "model: {backbone: {name: vti}}\n", "no backbone is named 'vti'. Did you mean 'vit'?"),
        ("recipe.yaml", "data: scenes\n", "model: expected a mapping"),
        ("sizes.json", None, "An older run gets it by: patchbay evaluate"),
        ("sizes.json", "{}", "lacks 'image_size'"),
        ("sizes.json", '{"image_size": "64", "text_length": 20, "vocabulary": 9}', "expected whole numbers above 0"),
        ("sizes.json", '{"image_size": 64, "text_length": 20, "vocabulary": 9}', "does not fit this recipe's model"),
        ("tokenizer.json", None, "the folder holds neither tokenizer.json nor vocab.txt"),
        ("model.safetensors", None, "no such file; has this run ended?"),
        ("model.safetensors", "x", "cannot be read as safetensors"),
    ],
)
def test_what_a_folder_may_lack(tmp_path, coca, name, content, said):
    folder = spoil(coca, tmp_path / "spoilt", name, content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(folder, "cpu")
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_older_run_gets_its_sizes_when_measured(tmp_path, coca):
    folder = spoil(coca, tmp_path / "old", "sizes.json", None)
    evaluate(str(folder), ["evaluate.candidates=4", "evaluate.examples=4", "evaluate.pictures=0"])
    assert ModelSpec.read(str(folder)) == ModelSpec.read(coca)


@pytest.mark.cpu_choice
def test_device_and_precision_are_checked(coca):
    with pytest.raises(ValueError, match=r"^device: 'tpu9' is no device here"):
        load(coca, "tpu9")
    with pytest.raises(ValueError, match=r"^precision: 'fp8' is none of auto, fp32, bf16"):
        load(coca, precision="fp8")
    assert load(coca, "cpu", "bf16").precision == "bf16"


# pictures


def test_pictures_are_prepared_as_held_out_ones(tmp_path, files):
    for i in range(8):
        shutil.copy(files[i % 5], tmp_path / f"{i}.png")
    said = [{"image": f"{i}.png", "caption": f"picture {i}"} for i in range(8)]
    (tmp_path / "said.json").write_text(json.dumps(said))
    source = SourceFiles(str(tmp_path), [str(tmp_path / "said.json")])
    data = Coco(sources=[source], image_size=32, held_out=0.25)
    sizes = ModelSpec.of(data)
    for example in data.held_out("train", 4):
        assert torch.equal(preprocess(tmp_path / example.key, sizes), example.image)


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("size", [(90, 70), (30, 70), (64, 64), (600, 401)])
def test_paths_pictures_and_tensors_agree(tmp_path, crop, size):
    sizes = ModelSpec(64, 20, 9, crop=crop)
    (file,) = paint(tmp_path, 1, size)
    path = preprocess(file, sizes)
    assert path.shape == (3, 64, 64)
    assert path.dtype == torch.uint8
    opened = Image.open(file)
    for other in (Path(file), opened, tensor(file)):
        assert torch.equal(preprocess(other, sizes), path)
    assert opened.size == size
    if size == (64, 64):
        assert torch.equal(path, tensor(file))


def test_a_large_photo_agrees_within_its_decoder(tmp_path):
    (file,) = paint(tmp_path, 1, (1600, 1200))
    Image.open(file).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as opened:
        one, two = (preprocess(p, ModelSpec(64, 20, 9)).float() for p in (tmp_path / "large.jpg", opened))
        assert opened.size == (1600, 1200)
    assert (one - two).abs().max() <= 4  # of 255: a JPEG file is decoded small


def test_cropped_to_the_middle_or_squeezed(tmp_path):
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste((0, 255, 0), (100, 0, 200, 100))
    cropped, squeezed = (preprocess(wide, ModelSpec(20, 20, 9, crop=crop)) for crop in (True, False))
    assert (cropped[:, :, 2:-2].float().mean((1, 2)) - torch.tensor([0.0, 255, 0])).abs().max() < 3
    assert (squeezed[0, :, :5] > 250).all()
    strip = Image.new("RGB", (20_000, 2), (255, 0, 0))  # 100 million pixels where it is enlarged whole
    strip.paste((0, 255, 0), (9_990, 0, 10_010, 2))
    middle = preprocess(strip, ModelSpec(200, 20, 9, crop=True))
    assert (middle.float().mean((1, 2)) - torch.tensor([0.0, 255, 0])).abs().max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_right_way_up(tmp_path, orientation):
    upright = Image.new("RGB", (40, 60), "white")
    upright.paste((255, 0, 0), (0, 0, 20, 20))  # red at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transposes that make what the camera stored
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    sizes = ModelSpec(16, 20, 9, crop=False)
    want = preprocess(upright, sizes).int()
    assert (preprocess(tmp_path / "turned.png", sizes).int() - want).abs().max() <= 2
    assert (preprocess(Image.open(tmp_path / "turned.png"), sizes).int() - want).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "I;16", "1"])
def test_modes(mode):
    picture = Image.new(mode, (20, 30))
    assert preprocess(picture, ModelSpec(16, 20, 9)).shape == (3, 16, 16)


def test_invalid_images_are_refused(captioner, tmp_path):
    (tmp_path / "note.png").write_text("<html>")
    wrong = {
        str(tmp_path / "none.png"): "none.png: cannot be used as an image: no such file",
        str(tmp_path / "note.png"): "note.png: cannot be used as an image: .*it holds a web page",
        torch.zeros(3, 8, 8): "3 x height x width of uint8, got 3 x 8 x 8 of torch.float32",
        torch.zeros(1, 8, 8, dtype=torch.uint8): "got 1 x 8 x 8",
        7: "a path, a PIL image or a tensor, got int",
    }
    for picture, said in wrong.items():
        with pytest.raises(ValueError, match=said):
            captioner.embed_images([picture])
    with pytest.raises(ValueError, match="a text is a string, got int"):
        captioner.embed_texts([1])


# the verbs


def test_one_is_many(captioner, files):
    assert captioner.caption(files[0]) == captioner.caption([files[0]])
    assert captioner.embed_images(Path(files[0])).shape == captioner.embed_texts("a star").shape == (1, 32)
    assert captioner.embed_images(tensor(files[0])).shape == (1, 32)
    assert captioner.embed_images(torch.stack([tensor(file) for file in files])).shape == (5, 32)
    near(captioner.embed_images(files).norm(dim=1), torch.ones(5))
    near(captioner.embed_texts(CLASSES).norm(dim=1), torch.ones(3))


def test_nothing_is_nothing(captioner):
    assert captioner.caption([]) == []
    assert captioner.embed_images([]).shape == captioner.embed_texts([]).shape == (0, 32)
    assert captioner.match([], CLASSES).shape == (0, 3)
    assert captioner.retrieve([], CLASSES) == [[], [], []]
    assert captioner.classify([], CLASSES) == []


@pytest.mark.parametrize("which", ["captioner", "matcher"])
def test_permuting_inputs_permutes_outputs(request, which, files):
    model: Predictor = request.getfixturevalue(which)
    order = [3, 0, 4, 1, 2]
    turned, asked = [files[i] for i in order], [CLASSES[i] for i in (2, 0, 1)]
    near(model.embed_images(turned), model.embed_images(files)[order])
    near(model.match(turned, asked), model.match(files, CLASSES)[order][:, [2, 0, 1]])
    captions = model.caption(files, beams=2, max_length=6)
    assert model.caption(turned, beams=2, max_length=6) == [captions[i] for i in order]
    one, two = model.classify(files, CLASSES), model.classify(turned, asked)
    assert [row[0][0] for row in two] == [one[i][0][0] for i in order]


@pytest.mark.parametrize("which", ["captioner", "matcher"])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batch_size_changes_nothing(request, which, batch, files):
    model: Predictor = request.getfixturevalue(which)
    settings = [{}, {"beams": 3}, {"top_p": 0.9, "seed": 3}]

    def results() -> tuple[list[Tensor], list[list[str]]]:
        tensors = [model.embed_images(files), model.embed_texts(CLASSES), model.match(files, CLASSES)]
        prompts = ["a", "there is a red", "", "the", "we see the"]
        return tensors, [model.caption(files, prompts, max_length=6, **s) for s in settings]

    tensors, texts = results()
    model.batch = batch
    try:
        again, texts_again = results()
    finally:
        model.batch = 32
    for one, two in zip(tensors, again, strict=True):
        near(one, two)
    assert texts == texts_again


def test_pictures_are_read_as_they_are_needed(captioner, files):
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield files[asked % 5]

    captioner.batch = 4
    try:
        captions = captioner.captions(endless(), max_length=2)
        assert asked == 0
        next(captions)
        assert asked == 4
        assert next(captioner.image_features(endless())).shape == (4, 32)
        assert asked == 8
        assert torch.is_grad_enabled()  # nothing of the work leaks out between two results
    finally:
        captioner.batch = 32


def test_prompts(captioner, files):
    assert all(text.startswith("there is") for text in captioner.caption(files, "there is", max_length=2))
    with pytest.raises(ValueError, match="2 prompts for more images"):
        captioner.caption(files, ["a", "b"])
    with pytest.raises(ValueError, match="6 prompts for 5 images"):
        captioner.caption(files, ["a"] * 6)
    assert captioner.caption(files[:1], "a " * 16)  # room is left for what is written
    with pytest.raises(ValueError, match="after a prompt of 18 it must be at most 3"):
        captioner.caption(files[:1], "a " * 17, max_length=4)
    with pytest.raises(
        ValueError, match="a prompt is too long for a model that reads 20 tokens: with its ends it may be 19"
    ):
        captioner.caption(files[:1], "a " * 40)


def test_settings_of_generation():
    assert generation_settings({}, 40) == Generation(max_length=30)
    assert generation_settings({}, 12).max_length == 12
    assert generation_settings({"beams": 3}, 40).mode == "beam"
    assert generation_settings({"temperature": 0.5, "top_p": 0.9}, 40).mode == "sample"
    assert generation_settings({"beams": 3, "mode": "greedy"}, 40).mode == "greedy"
    with pytest.raises(ValueError, match=r"no setting 'beam'. Did you mean 'beams'"):
        generation_settings({"beam": 3}, 40)
    with pytest.raises(ValueError, match="beams is for a beam search, top_k for draws"):
        generation_settings({"beams": 3, "top_k": 3}, 40)
    with pytest.raises(ValueError, match="top_p is 2; it must be above 0"):
        generation_settings({"top_p": 2}, 40)


def test_match_by_fusion_is_a_probability(matcher, files):
    assert matcher.matches_by == "match"
    found = matcher.match(files, CLASSES)
    assert found.shape == (5, 3)
    assert ((found > 0) & (found < 1)).all()
    model, sizes = matcher.model, matcher.sizes
    with torch.no_grad():  # a pair by hand
        words = model.encode_text(matcher.tokenizer(CLASSES).rows(slice(1, 2)))
        image = model.encode_image(model.trunk(preprocess(files[2], sizes)[None]), words.pooled)
        odds = model.heads["match"](model.fusion(words, image).text.x[:, 0]).softmax(1)
    near(found[2, 1], odds[0, 1])


def test_match_by_a_sigmoid_contrast_or_by_cosines(captioner, files):
    similar = captioner.embed_images(files) @ captioner.embed_texts(CLASSES).T
    assert captioner.matches_by == "cosine"
    near(captioner.match(files, CLASSES), similar)
    captioner.model.heads["sigmoid"] = ScaleBias(scale=2.0, bias=-1.0)
    try:
        assert captioner.matches_by == "sigmoid"
        near(captioner.match(files, CLASSES), (2 * similar - 1).sigmoid())
    finally:
        del captioner.model.heads["sigmoid"]


@pytest.mark.parametrize("batch", [2, 32])
def test_retrieval_is_the_order_of_all(captioner, files, batch):
    similar = captioner.embed_texts(CLASSES) @ captioner.embed_images(files).T
    captioner.batch = batch
    try:
        found = captioner.retrieve(iter(files), CLASSES, top=3)
        assert [len(row) for row in captioner.retrieve(files, CLASSES, top=9)] == [5, 5, 5]
        twice = captioner.retrieve([files[0]] * 5, "a", top=5)
    finally:
        captioner.batch = 32
    assert [[place for place, _ in row] for row in found] == similar.sort(descending=True).indices[:, :3].tolist()
    assert sorted(place for place, _ in twice[0]) == [0, 1, 2, 3, 4]


def test_zero_shot_classes(captioner, files):
    found = captioner.classify(files, CLASSES, top=2)
    assert [len(row) for row in found] == [2] * 5
    whole = captioner.classify(files, CLASSES)
    assert all(abs(sum(odds for _, odds in row) - 1) < 1e-5 for row in whole)
    assert all([odds for _, odds in row] == sorted((odds for _, odds in row), reverse=True) for row in whole)
    default = captioner.classify(files, iter(CLASSES), prompts=ENSEMBLE)
    assert default == whole
    (plain,) = captioner.classify(files[0], CLASSES, prompts="{labels}")
    similar = captioner.embed_images(files[0]) @ captioner.embed_texts(CLASSES).T
    odds = captioner.model.heads["temperature"](similar).softmax(1).detach()
    near(torch.tensor([dict(plain)[name] for name in CLASSES]), odds[0])


def test_classes_that_cannot_be_told_apart(captioner, matcher, files):
    with pytest.raises(ValueError, match="no head for classes of its own: give the classes"):
        captioner.classify(files)
    with pytest.raises(ValueError, match="there are no classes"):
        captioner.classify(files, [])
    with pytest.raises(ValueError, match="'a' is there twice"):
        captioner.classify(files, ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"'a photo' has no \{labels\}"):
        captioner.classify(files, CLASSES, "a photo")
    assert captioner.classify(files[0], ["{x}", "a{0}"])  # a name is no format


def test_classes_of_the_models_own(tmp_path, files):
    folder = train_run(tmp_path, COCA, "model.heads.classify=classify")
    model = load(folder, "cpu", "fp32")
    found = model.classify(files, top=3)
    assert all(name in model.sizes.classes for row in found for name, _ in row)
    assert abs(sum(odds for _, odds in model.classify(files[0], top=10**6)[0]) - 1) < 1e-5
    with pytest.raises(ValueError, match="prompts need classes"):
        model.classify(files, prompts="a {labels}")


@pytest.mark.cpu_choice
def test_in_bf16_heads_of_scores_stay_in_full_precision(tmp_path, files, monkeypatch):
    projected = [f"model.heads.{side}={{name: projection, width: 8}}" for side in ("image", "text")]
    held = load(train_run(tmp_path, COCA, "model.heads.classify=classify", *projected), "cpu", "bf16")
    assert type(held.model.heads["text"].linear) is torch.nn.Linear
    seen = []
    head = held.model.heads["classify"]
    monkeypatch.setattr(head, "forward", lambda x, forward=head.forward: seen.append(forward(x)) or seen[-1])
    held.classify(files[0])
    assert [logits.dtype for logits in seen] == [torch.float32]


def test_what_a_model_lacks_is_named(captioner, files):
    image = captioner.model.heads.pop("image")
    try:
        with pytest.raises(ValueError, match=r"this model lacks model.heads.image"):
            captioner.embed_images(files)
        with pytest.raises(ValueError, match=r"matching: this model lacks model.fusion and model.heads.match"):
            captioner.retrieve(files, "a")
    finally:
        captioner.model.heads["image"] = image
    decoder, captioner.model.decoder = captioner.model.decoder, None
    try:
        with pytest.raises(ValueError, match=r"caption: this model lacks model.decoder"):
            captioner.caption(files)
    finally:
        captioner.model.decoder = decoder


# train.init_from


def changed(folder: str, target: Path, by: float = 1.0) -> Path:
    """A copy of a run whose weights are all different."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    save_file({name: tensor + by for name, tensor in weights.items()}, target / "model.safetensors")
    return target


def test_a_run_starts_from_a_folder(tmp_path, coca, capsys):
    source = changed(coca, tmp_path / "source")
    folder = train_run(tmp_path, COCA, f"train.init_from={source}", "train.lr=1e-12", "model.decoder.multimodal=2")
    said = capsys.readouterr().out.splitlines()
    old, new = load_file(source / "model.safetensors"), load_file(f"{folder}/model.safetensors")
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in old)
    fresh = set(new) - set(old)
    assert said[0] == (
        f"Started from {source}: {len(old)} of {len(new)} tensors taken over; new: decoder.multimodal {len(fresh)}"
    )
    assert "train.lr" not in said[1]
    assert said[1].startswith("Run folder")


def test_what_does_not_fit_is_named_and_starts_new(tmp_path, coca, capsys):
    overrides = ("data.text_length=24", "model.heads.temperature=null", "model.heads.sigmoid=scale_bias")
    train_run(tmp_path, COCA, f"train.init_from={coca}", *overrides, "objectives.itc=null", "objectives.siglip={}")
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("tensors taken over; new: decoder.positions 1, heads.sigmoid 2")
    assert second == "  in that folder, not in this model: heads.temperature 1"
    assert third == (
        "  of another shape, so new, for nothing is resized: decoder.positions 1; "
        "decoder.positions.weight is 20 x 32 there, 24 x 32 here"
    )


def test_the_vocabulary_comes_along(tmp_path, coca):
    file = Path(coca) / "tokenizer.json"
    folder = train_run(tmp_path, COCA, f"train.init_from={coca}", "data.seed=7")
    assert (Path(folder) / "tokenizer.json").read_text() == file.read_text()
    fewer = tmp_path / "fewer"
    shutil.copytree(coca, fewer)
    small = json.loads(file.read_text())
    pieces = sorted(small["model"]["vocab"], key=small["model"]["vocab"].get)[:-3]
    small["model"]["vocab"] = {piece: place for place, piece in enumerate(pieces)}
    (fewer / "tokenizer.json").write_text(json.dumps(small))
    recipe = read(str(tmp_path / "small.yaml"), [f"train.init_from={fewer}"], discovery.load())
    assert data_spec(recipe).vocabulary == len(pieces)


def test_tied_tensors_are_taken_once(tmp_path, coca):
    recipe = read(f"{coca}/recipe.yaml", ["model.heads.words.tied=decoder"], discovery.load())
    model = build_model(recipe.model, ModelSpec.read(coca))
    held = load_file(f"{coca}/model.safetensors")
    del held["heads.words.words.weight"]  # as a file of tied weights has it: under the first name
    folder = tmp_path / "tied"
    folder.mkdir()
    save_file(held, folder / "model.safetensors")
    assert warm_start(model, str(folder)).endswith("new: none")
    assert torch.equal(model.heads["words"].words.weight, held["decoder.words.weight"])


def test_nothing_to_start_from(tmp_path, coca):
    with pytest.raises(
        ValueError, match=r"^train.init_from: .*none.model.safetensors: no such file; name the folder of"
    ):
        train_run(tmp_path / "a", COCA, f"train.init_from={tmp_path / 'none'}")
    with pytest.raises(ValueError, match=r"none of its \d+ tensors has a name and shape of this model's"):
        train_run(
            tmp_path / "b", COCA, f"train.init_from={coca}", "model.backbone.embed_dim=16", "model.decoder.embed_dim=16"
        )
    spoilt = spoil(coca, tmp_path / "spoilt", "model.safetensors", "x")
    with pytest.raises(ValueError, match=r"spoilt.model.safetensors: cannot be read"):
        train_run(tmp_path / "c", COCA, f"train.init_from={spoilt}")


def test_a_checkpoint_wins_over_the_start(tmp_path, coca, capsys):
    source = changed(coca, tmp_path / "source")
    settings = (f"train.init_from={source}", "train.lr=1e-12", "train.weight_decay=0")
    folder = train_run(tmp_path, COCA, *settings)
    shutil.rmtree(source)
    capsys.readouterr()
    again = [f"run.folder={folder}", "run.resume=true", *settings]
    running.run(str(tmp_path / "small.yaml"), again)
    said = capsys.readouterr().out
    assert "Started from" not in said
    assert "Continuing from step 1" in said


def test_a_teacher_starts_there_too(tmp_path, coca):
    source = changed(coca, tmp_path / "source")
    overrides = [f"train.init_from={source}", "objectives.itc=null", "objectives.itc_momentum={}"]
    recipe = read(f"{coca}/recipe.yaml", overrides, discovery.load())
    built = running.build(recipe)
    teacher = dict(built.objectives.parts["itc_momentum"].named_parameters())
    held = load_file(source / "model.safetensors")
    shared = [(name, t) for name, t in teacher.items() for key in held if name.endswith(key)]
    assert shared
    assert all(any(torch.equal(t, held[key]) for key in held if name.endswith(key)) for name, t in shared)


def test_a_teacher_follows_its_students_mode(coca):
    built = running.build(
        read(f"{coca}/recipe.yaml", ["objectives.itc=null", "objectives.itc_momentum={queue: 8}"], discovery.load())
    )
    objective = built.objectives.train().parts["itc_momentum"]
    built.model.backbone.eval()  # as a trainer does with what is frozen of some networks
    built.objectives(built.data.batch(0, size=4, seed=0, reads=built.objectives.batch_fields))
    assert not objective.teacher.backbone.training
    assert objective.teacher.pooler.training


def test_a_teacher_of_a_pooler_of_another_width(tmp_path):
    projected = [f"model.heads.{side}={{name: projection, width: 8}}" for side in ("image", "text")]
    momentum = ["objectives.itc=null", "objectives.itc_momentum={queue: 8}"]
    train_run(tmp_path, COCA, "model.pooler.width=48", *projected, *momentum)
    held = load_file(tmp_path / "run" / "model.safetensors")
    assert (held["heads.image.linear.weight"].shape, held["heads.text.linear.weight"].shape) == ((8, 48), (8, 32))


def test_recipe_errors_are_all_told(tmp_path, coca):
    folder = spoil(coca, tmp_path / "two", "recipe.yaml", "model: {backbone: {name: vit, dmi: 3}, txet: null}\n")
    with pytest.raises(RecipeErrors) as caught:
        load(folder)
    assert len(caught.value.problems) == 2
