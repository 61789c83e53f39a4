"""Models built by open_clip 3.3.0 and imported: its embeddings, its logits, its captions word for word; its tokens.

The peer runs in an environment of its own (peer.py), with random weights; its vocabulary head, which 3.3.0 leaves at
zero, is filled from a normal distribution first.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import peer
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.cli import main
from core.loading import load_model
from core.model import Model, ModelSpec
from core.types import Text, Tokens
from plugins.generation.generate import generate
from plugins.generation.settings import Generation
from plugins.text.tokenizer import load_tokenizer

CAPTIONS = Path(__file__).parents[4].parent / "shared" / "data" / "coco" / "captions.json"
TEXTS = ["A cat.", "Two men ride a horse along the beach, under a red sky", "a very long tale of dogs " * 20]
ODD = [
    "",
    "!?! wow !!",
    "It’s Zoë's café – 12 crêpes, don't “you”?",
    "漢字 🐈 ☃",
    "a  \t b\n",
    "x" * 300,
    "1,000.50€ #tag_me",
]
CLOSE = 1e-4
TINY = {  # heads of 32, a picture encoder as wide as the decoder, so that the pooler's attention is one matrix
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
}
BUILD = """
import json, sys, torch, open_clip
from open_clip.coca_model import CoCa
from safetensors.torch import load_file, save_file
job = json.loads(sys.argv[1])
torch.manual_seed(0)
model = CoCa(**job["model"]) if isinstance(job["model"], dict) else open_clip.create_model(job["model"])
model.eval()
with torch.no_grad():
    head = model.text_decoder.text_projection
    head.normal_(std=head.shape[0] ** -0.5)
    for norm in (part for part in model.modules() if isinstance(part, torch.nn.LayerNorm)):
        norm.weight.add_(torch.randn_like(norm.weight) * 0.1)  # off their start, so that none is without effect
        norm.bias.add_(torch.randn_like(norm.bias) * 0.1)
save_file(model.state_dict(), "peer.safetensors")
colours = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
mean, deviation = (torch.tensor(colour).view(1, 3, 1, 1) for colour in colours)
images = (load_file("images.safetensors")["images"] / 255 - mean) / deviation
ids = open_clip.tokenizer.tokenize(job["texts"], context_length=model.context_length)
found, length = {"ids": ids}, job["length"]
with torch.no_grad():
    for mask in ("legacy", "correct"):
        model.text.correct_cls_mask = mask == "correct"
        out = model(images, ids[: len(images)], output_labels=False)
        found[f"text {mask}"] = model.encode_text(ids)
        found[f"image {mask}"], found[f"logits {mask}"] = out["image_features"], out["logits"]
        found[f"greedy {mask}"] = model.generate(
            images, seq_len=length, min_seq_len=length - 1, generation_type="top_k", top_k=1
        )
save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, "found.safetensors")
print(json.dumps({"vocabulary": open_clip.tokenizer.default_bpe(), "scale": model.logit_scale.exp().item()}))
"""


def load(folder: Path) -> Model:
    return load_model(str(folder))[0].eval()


class Imported:
    """A model of open_clip's, what it computed, and ours."""

    def __init__(self, model: str | dict, pictures: int, length: int, folder: Path):
        torch.manual_seed(1)
        side = 224 if isinstance(model, str) else model["vision_cfg"]["image_size"]
        self.folder, self.length = folder, length
        self.images = torch.randint(0, 256, (pictures, 3, side, side), dtype=torch.uint8)
        save_file({"images": self.images}, str(folder / "images.safetensors"))
        said = peer.run(BUILD, json.dumps({"model": model, "texts": TEXTS, "length": length}), folder=folder)
        self.peer, self.found = json.loads(said.splitlines()[-1]), load_file(str(folder / "found.safetensors"))
        self.checkpoint, config = folder / "peer.safetensors", []
        if isinstance(model, dict):
            (folder / "config.json").write_text(json.dumps(model))
            config = ["--config", str(folder / "config.json")]
        assert self.run("ours", *config) == 0
        self.model = load(folder / "ours")
        self.tokenizer = load_tokenizer(str(folder / "ours"), ModelSpec.read(str(folder / "ours")).text_length)

    def run(self, out: str, *more: str, file: Path | None = None) -> int:
        given = ["open_clip", str(file or self.checkpoint), "--out", str(self.folder / out), *more]
        return main(["import", *given, *([] if "--vocabulary" in more else ["--vocabulary", self.peer["vocabulary"]])])

    def beside(self, name: str, mask: str, ours: torch.Tensor, kept: torch.Tensor | None = None) -> None:
        theirs = self.found[f"{name} {mask}"][:, : ours.shape[1]]
        assert theirs.shape == ours.shape
        apart = (ours - theirs).abs() if kept is None else (ours - theirs).abs()[kept]
        print(
            f"{name}, {mask} mask: at most {float(apart.max()):.1e} apart, values up to {float(theirs.abs().max()):.2f}"
        )
        assert float(apart.max()) < CLOSE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Imported(TINY, 2, 20, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(
    scope="module",
    params=[None, ("coca_ViT-B-32", 2, 20), ("coca_ViT-L-14", 1, 8)],
    ids=["tiny", "coca_ViT-B-32", "coca_ViT-L-14"],
)
def imported(request, tmp_path_factory):
    if request.param is None:
        return request.getfixturevalue("tiny")
    made = Imported(*request.param, tmp_path_factory.mktemp("open_clip"))
    for file in (made.checkpoint, made.folder / "ours" / "model.safetensors"):
        file.unlink()  # gigabytes
    return made


@torch.no_grad()
def both(imported: Imported, mask: str) -> tuple[Text, Tokens]:
    """The texts, and the pictures' tokens; the model's [CLS] sees what ``mask`` says."""
    imported.model.decoder.legacy = mask == "legacy"
    text = imported.tokenizer(TEXTS)
    assert torch.equal(text.ids, imported.found["ids"][:, : text.ids.shape[1]])
    return text, imported.model.encode_image(imported.model.backbone.trunk(imported.images))


@pytest.mark.parametrize("mask", ["legacy", "correct"])
@torch.no_grad()
def test_embeddings_and_caption_logits_are_open_clips(imported, mask):
    model, (text, image) = imported.model, both(imported, mask)
    assert image.x.shape[1] == 255
    imported.beside("image", mask, model.heads["image"](image.pooled))
    imported.beside("text", mask, model.heads["text"](model.encode_text(text).pooled))
    assert float(model.heads["temperature"](torch.ones(()))) == pytest.approx(imported.peer["scale"], rel=1e-6)
    read = text.rows(slice(len(imported.images)))
    longest = int(read.mask.sum(1).max())
    read = read.map(lambda t: t[:, :longest])
    imported.beside(
        "logits", mask, model.heads["words"](model.decoder(model.decoder.encode_text(read), image).x), read.mask
    )


@pytest.mark.parametrize("mask", ["legacy", "correct"])
@torch.no_grad()
def test_greedy_captions_are_open_clips_word_for_word(imported, mask):
    model, (_, image) = imported.model, both(imported, mask)
    start = Text(torch.full((len(image.x), 1), imported.tokenizer.cls), torch.ones(len(image.x), 1, dtype=torch.bool))
    words = imported.length - 2  # the peer's first is its start token, its last always its end token
    settings, ends = Generation(max_length=words + 1, min_length=words), {"end": imported.tokenizer.sep, "pad": 0}
    for cached in (True, False) if imported.folder.name.startswith("tiny") else (True,):
        how = Generation(max_length=settings.max_length, min_length=settings.min_length, cached=cached)
        ours = generate(model.decoder, model.heads["words"], image, start, how, **ends)
        theirs = imported.found[f"greedy {mask}"]
        assert [list(text.ids[:words]) for text in ours] == theirs[:, 1:-1].tolist()
    print(f"greedy, {mask} mask: {theirs[:, 1:-1].numel()} words equal")


def test_a_checkpoint_of_a_trainer_is_the_same_model(tiny):
    """torch's own format, below "state_dict", with the prefix of DistributedDataParallel, in half precision."""
    tensors = load_file(str(tiny.checkpoint))
    held = {"epoch": 3, "state_dict": {f"module.{name}": tensor.half() for name, tensor in tensors.items()}}
    torch.save(held, tiny.folder / "epoch_3.pt")
    config = ["--config", str(tiny.folder / "config.json")]
    assert tiny.run("again", *config, file=tiny.folder / "epoch_3.pt") == 0
    one, other = load(tiny.folder / "ours").state_dict(), load(tiny.folder / "again").state_dict()
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-6) for name in one)
    tokens = (tiny.folder / "again" / "tokenizer.json").read_text()
    assert tokens == (tiny.folder / "ours" / "tokenizer.json").read_text()


def test_the_configuration_tells_mask_and_heads(tiny, capsys):
    config = json.loads(json.dumps(TINY))
    config["text_cfg"]["correct_cls_mask"] = True
    (tiny.folder / "hub.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    assert tiny.run("hub", "--config", str(tiny.folder / "hub.json")) == 0
    model = load(tiny.folder / "hub")
    assert not model.decoder.legacy
    assert (model.backbone.vit.blocks[0].attn.num_heads, model.pooler.attention.heads) == (2, 4)
    assert model.decoder.multimodal[0].cross.heads == 2
    assert tiny.run("beside") == 0  # its configuration lies beside the file
    assert load(tiny.folder / "beside").decoder.multimodal[0].cross.heads == 2
    alone = tiny.folder / "alone"
    alone.mkdir()
    (alone / "peer.safetensors").symlink_to(tiny.checkpoint)
    capsys.readouterr()
    assert tiny.run("guessed", file=alone / "peer.safetensors") == 0
    assert load(tiny.folder / "guessed").decoder.multimodal[0].cross.heads == 1
    guess = "guessed: image encoder: 1 heads, width 64 / 64; pooler: 8 heads; text: 1 heads, width 64 / 64; pixel mean"
    assert guess in capsys.readouterr().out


def faults(tiny: Imported, folder: Path) -> dict[str, tuple[list[str], str]]:
    """By name: arguments after "open_clip", and what is said of them."""
    tensors = load_file(str(tiny.checkpoint))

    def saved(name: str, change: dict) -> str:
        held = {key: tensor for key, tensor in {**tensors, **change}.items() if tensor is not None}
        save_file(held, str(folder / name))
        return str(folder / name)

    def configured(name: str, section: str, **change: object) -> list[str]:
        config = json.loads(json.dumps(TINY))
        (config[section] if section else config).update(change)
        (folder / name).write_text(json.dumps(config))
        return [str(tiny.checkpoint), "--config", str(folder / name)]

    class Code:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"state_dict": Code()}, folder / "code.pt")
    torch.save({"state_dict": {"a": 3}}, folder / "number.pt")
    torch.save([torch.zeros(1)], folder / "list.pt")
    torch.save(tensors, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:5000])
    (folder / "cut.safetensors").write_bytes(tiny.checkpoint.read_bytes()[:5000])
    (folder / "note.txt").write_text("red\nblue\n")
    (folder / "note.txt.gz").write_bytes(b"\x1f\x8b and no more")
    (folder / "broken.json").write_text("{")
    (folder / "pieces.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red"]))
    ln, bias = "visual.ln_post.weight", torch.zeros(3)
    whole, note = str(tiny.checkpoint), ["--vocabulary", str(folder / "note.txt")]
    return {
        "absent": (["none.pt"], "none.pt: no such file"),
        "cut torch": (
            [str(folder / "cut.pt")],
            "cut.pt: cannot be read as a checkpoint of torch; is it one, and whole?",
        ),
        "cut safetensors": ([str(folder / "cut.safetensors")], "cut.safetensors: cannot be read as safetensors"),
        "text": ([str(folder / "note.txt")], "note.txt: cannot be read as a checkpoint of torch"),
        "code": ([str(folder / "code.pt")], "code.pt: refused: it asks for code (print)"),
        "no tensor": ([str(folder / "number.pt")], "number.pt: 'a' is a int; expected tensors by name"),
        "no names": ([str(folder / "list.pt")], "list.pt: holds a list; expected tensors by name"),
        "lacks": ([saved("a.safetensors", {ln: None})], f"has no tensor '{ln}'; wanted is one of shape (64,)"),
        "shape": ([saved("b.safetensors", {ln: bias})], f"'{ln}' has the shape (3,); wanted is (64,)"),
        "another model": (
            [saved("c.safetensors", {"visual.conv1.weight": None})],
            "has no tensor 'visual.conv1.weight'",
        ),
        "left over": ([saved("d.safetensors", {"logit_bias": bias})], "does not compute: logit_bias"),
        "layer": (
            [saved("e.safetensors", {name: None for name in tensors if name.startswith("text_decoder.resblocks.1.")})],
            "expected layers text_decoder.resblocks.0, text_decoder.resblocks.1, ...; it has: 0, 2",
        ),
        "width": (configured("f.json", "vision_cfg", width=128), "vision_cfg.width is 128; expected 64"),
        "setting": (
            configured("g.json", "text_cfg", pool_type="eos"),
            "text_cfg.pool_type is 'eos'; this import knows",
        ),
        "gelu": (configured("h.json", "", quick_gelu=True), "quick_gelu is True; expected False"),
        "heads": (
            configured("i.json", "text_cfg", heads="8"),
            "i.json: text_cfg.heads is '8'; expected a number that divides",
        ),
        "uneven": (configured("m.json", "vision_cfg", head_width=60), "vision_cfg.head_width is 60; expected a number"),
        "mask": (
            configured("l.json", "text_cfg", correct_cls_mask="false"),
            "text_cfg.correct_cls_mask is 'false'; expected true or false",
        ),
        "pixels": (
            configured("j.json", "", preprocess_cfg={"mean": [0.5, 0.5]}),
            "j.json: preprocess_cfg.mean is [0.5, 0.5]; expected three numbers between 0 and 1",
        ),
        "no object": (configured("k.json", "", model_cfg=[]), "k.json: model_cfg is []; expected a JSON object"),
        "config": ([whole, "--config", str(folder / "broken.json")], "broken.json:1:2: not JSON"),
        "vocabulary": ([whole, *note], "note.txt: the vocabulary lacks [PAD], [UNK], [CLS], [SEP]"),
        "damaged vocabulary": ([whole, note[0], note[1] + ".gz"], "note.txt.gz: cannot be read as CLIP's merges"),
        "other vocabulary": (
            [whole, "--vocabulary", str(folder / "pieces.txt")],
            "'text.token_embedding.weight' has 49,408 rows, but",
        ),
        "no vocabulary": ([whole, "--vocabulary", ""], "holds no vocabulary: name it with --vocabulary FILE"),
    }


def test_what_does_not_fit_is_named_and_leaves_nothing(tiny, tmp_path, capfd):
    for name, (given, said) in faults(tiny, tmp_path).items():
        file, *more = given
        assert tiny.run("fault", *more, file=Path(file)) == 2, name
        told = capfd.readouterr()
        assert said in told.err, f"{name}: {told.err}"
        assert "run" not in told.out, "code of a checkpoint was run"
        assert not list(tiny.folder.glob("fault*")), name
    assert tiny.run("ours") == 2
    assert "is there already; name a folder that is new or empty" in capfd.readouterr().err


def test_tokens_are_open_clips():
    if not CAPTIONS.exists():
        pytest.skip(f"no real captions: {CAPTIONS} is not here")
    captions = json.loads(CAPTIONS.read_text())
    texts = [*(a["caption"] for a in captions["annotations"]), *ODD]
    assert len(texts) >= 500
    source = """
import json, sys, open_clip
texts = json.load(open(sys.argv[1]))
tokenizer = open_clip.SimpleTokenizer(context_length=30)
ids = tokenizer(texts).tolist()
spoken = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
print(json.dumps({"ids": ids, "spoken": spoken, "file": open_clip.tokenizer.default_bpe()}))
"""
    folder = Path(peer.python()).parents[1]
    (folder / "texts.json").write_text(json.dumps(texts))
    theirs = json.loads(peer.run(source, str(folder / "texts.json")))
    ours = load_tokenizer(theirs["file"], 30)
    text = ours(texts)
    assert text.ids.tolist() == theirs["ids"]
    assert text.mask.sum(1).tolist() == [row.index(ours.sep) + 1 for row in theirs["ids"]], "'!' is no padding"
    for row, mask, spoken in zip(text.ids, text.mask, theirs["spoken"], strict=True):
        if int(mask.sum()) < 30:
            assert ours.decode(row[mask]).replace(" ", "") == spoken.replace(" ", ""), "apart from blanks"
    print(f"{len(texts)} texts tokenised alike")


IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from core.cli import main
sys.exit(main(["import", "open_clip", *sys.argv[2:]]))
"""


def test_the_import_ends_with_a_comparison_where_open_clip_is_installed(tiny, tmp_path, capsys):
    """Run in the peer's environment; without open_clip the reason is printed."""
    root = str(Path(__file__).parents[4])
    (tmp_path / "open_clip_model.safetensors").symlink_to(tiny.checkpoint)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"}
    content = {"model_cfg": TINY, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    arguments = [str(tmp_path), "--vocabulary", tiny.peer["vocabulary"], "--out"]
    output = peer.run(IMPORT, root, *arguments, str(tmp_path / "compared"))
    assert "compared with open_clip 3.3.0 on a random image and text: largest difference " in output
    assert "guessed" not in output
    spec = ModelSpec.read(str(tmp_path / "compared"))
    assert not spec.crop
    model = load(tmp_path / "compared")
    assert model.backbone.mean.flatten().tolist() == [127.5] * 3
    assert model.backbone.deviation.flatten().tolist() == [63.75] * 3
    if importlib.util.find_spec("open_clip") is None:
        assert main(["import", "open_clip", *arguments, str(tmp_path / "alone")]) == 0
        assert "nothing was compared with open_clip: open_clip is not installed" in capsys.readouterr().out
