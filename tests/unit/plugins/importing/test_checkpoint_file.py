"""Checkpoints of other libraries: wrappers and prefixes, shapes, layer numbers, tensors that no part takes."""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from plugins.importing.checkpoint_file import ForeignCheckpoint, read_tensors


def checkpoint(**tensors):
    return ForeignCheckpoint("x.pt", {name.replace("__", "."): tensor for name, tensor in tensors.items()})


@pytest.fixture(params=["safetensors", "torch"])
def save(request, tmp_path):
    """Write tensors in one of the two formats and return the file's path."""

    def write(tensors):
        path = tmp_path / ("a.safetensors" if request.param == "safetensors" else "a.pt")
        (save_file if request.param == "safetensors" else torch.save)(tensors, path)
        return str(path)

    return write


def test_both_formats_have_the_same_tensors_in_any_dtype(save):
    tensors = {"a.weight": torch.randn(2, 3), "b": torch.arange(4), "c": torch.ones(2).half()}
    read = read_tensors(save(tensors))
    assert sorted(read.tensors) == sorted(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(read.tensors[name], tensor)


def test_prefixes_of_wrappers_are_removed(save):
    names = ("module.a", "_orig_mod.b", "module._orig_mod.c", "submodule.d", "e.module.f")
    read = read_tensors(save({name: torch.zeros(1) for name in names}))
    assert sorted(read.tensors) == ["a", "b", "c", "e.module.f", "submodule.d"]


def test_only_the_entry_state_dict_is_read(tmp_path):
    file = str(tmp_path / "a.pt")
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": OrderedDict({"module.a": torch.ones(2)})}, file)
    assert list(read_tensors(file).tensors) == ["a"]


def test_a_tensor_named_state_dict_is_a_tensor(save):
    assert list(read_tensors(save({"state_dict": torch.ones(2)})).tensors) == ["state_dict"]


def test_an_empty_checkpoint_has_no_tensors(tmp_path):
    torch.save({}, tmp_path / "a.pt")
    read = read_tensors(str(tmp_path / "a.pt"))
    assert read.tensors == {}
    read.refuse_left("the model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "holds a Tensor; expected tensors by name"),
        (3, "holds a int; expected tensors by name"),
        ({"a": torch.ones(1), "b": "text"}, "'b' is a str; expected tensors by name, or those below 'state_dict'"),
        ({"state_dict": {"a": None}}, "'a' is a NoneType; expected tensors by name"),
        ({"state_dict": [torch.ones(1)]}, "'state_dict' is a list; expected tensors by name"),
    ],
)
def test_content_other_than_tensors_by_name(content, message, tmp_path):
    file = str(tmp_path / "a.pt")
    torch.save(content, file)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: {message}')}"):
        read_tensors(file)


def test_torchscript_and_other_formats_are_named(tmp_path):
    file = str(tmp_path / "ViT-B-32.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, the files remain
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    with pytest.raises(ValueError, match=r"ViT-B-32\.pt: a TorchScript archive, as OpenAI's CLIP files are"):
        read_tensors(file)
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a\.npz: \.npz is no format of torch; read are \.safetensors"):
        read_tensors(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors", "."])
def test_a_missing_file_or_a_folder(name, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_tensors(str(tmp_path / name))


def test_shape_checks_the_number_of_axes():
    read = checkpoint(a=torch.zeros(2, 3), scalar=torch.tensor(1.0))
    assert read.shape("a", 2) == (2, 3)
    assert read.shape("scalar", 0) == ()
    with pytest.raises(ValueError, match=re.escape("x.pt: 'a' has the shape (2, 3); expected 3 axes")):
        read.shape("a", 3)
    with pytest.raises(ValueError, match=re.escape("x.pt: has no tensor 'b'")):
        read.shape("b", 2)
    assert list(read.left) == ["a", "scalar"]  # a shape alone takes nothing


def test_take_converts_to_contiguous_float32_and_may_repeat():
    half = torch.randn(3, 2).half()
    read = checkpoint(a=half.T)
    for _ in range(2):  # tied weights are taken twice
        tensor = read.take("a", 2, 3)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert torch.equal(tensor, half.T.float())
    assert not read.left


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("b", (2,), "x.pt: has no tensor 'b'; wanted is one of shape (2,)"),
        ("a", (3, 2), "x.pt: 'a' has the shape (2, 3); wanted is (3, 2)"),
        ("a", (6,), "x.pt: 'a' has the shape (2, 3); wanted is (6,)"),
        ("a", (), "x.pt: 'a' has the shape (2, 3); wanted is ()"),
    ],
)
def test_a_failed_take_leaves_the_tensor(name, shape, message):
    read = checkpoint(a=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=re.escape(message)):
        read.take(name, *shape)
    assert list(read.left) == ["a"]


def test_layers_are_counted_by_number_not_by_tensor():
    one = torch.zeros(1)
    read = checkpoint(**{f"blocks__{i}__{part}": one for i in range(11) for part in ("w", "b")}, blocks__norm=one)
    assert read.layers("blocks") == 11
    read = checkpoint(**{"a.b.0.w": one, "axb.1.w": one, "c.a.b.2.w": one})
    assert read.layers("a.b") == 1  # the dot is no wildcard, and the prefix is at the start


@pytest.mark.parametrize(
    ("names", "present"),
    [((), "none"), (("l.w",), "none"), (("l.1.w",), "1"), (("l.0.w", "l.10.w", "l.2.w"), "0, 2, 10")],
)
def test_missing_layers_are_listed_in_order(names, present):
    read = checkpoint(**{name: torch.zeros(1) for name in names})
    with pytest.raises(ValueError, match=rf"^x\.pt: expected layers l\.0, l\.1, \.\.\.; it has: {present}$"):
        read.layers("l")


def test_refuse_left_names_three_and_counts_the_rest():
    read = checkpoint(**{name: torch.zeros(1) for name in "abcde"}, position_ids=torch.zeros(1))
    with pytest.raises(ValueError, match=r"^x\.pt: has what BERT does not compute: a, b, c and 2 more$"):
        read.refuse_left("BERT", r"position_ids")
    for name in "ab":
        read.take(name, 1)
    with pytest.raises(ValueError, match=r"compute: c, d, e$"):
        read.refuse_left("BERT", r"position_ids")
    read.refuse_left("BERT", r"position_.*", r"[c-e]")


def test_harmless_names_match_as_a_whole():
    with pytest.raises(ValueError, match=r"compute: head\.bias$"):
        checkpoint(head__bias=torch.zeros(1)).refuse_left("the model", "head")


@pytest.mark.parametrize("name", ["model", "model_state_dict", "module"])
def test_other_entries_of_training_checkpoints(name, tmp_path):
    file = str(tmp_path / "a.pt")
    torch.save({"epoch": 3, "optimizer": {"state": {}}, name: {"module.a": torch.ones(2)}}, file)
    assert list(read_tensors(file).tensors) == ["a"]
    torch.save({"epoch": 3, "optimizer": {"state": {}}, "net": {"a": torch.ones(2)}}, file)
    with pytest.raises(ValueError, match=r"'epoch' is a int; .* below 'state_dict' or 'model' or"):
        read_tensors(file)


def test_a_folder_is_its_weights(tmp_path):
    with pytest.raises(ValueError, match=r"has no weights; no such file in it: model\.safetensors, "):
        read_tensors(str(tmp_path))
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert read_tensors(str(tmp_path)).file == str(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file; its folder has pytorch_model\.bin$"):
        read_tensors(str(tmp_path / "model.safetensors"))
    save_file({"b": torch.ones(2)}, tmp_path / "model.safetensors")
    assert list(read_tensors(str(tmp_path)).tensors) == ["b"]


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_an_index_of_several_files(ending, tmp_path):
    stem = "model" if ending == "safetensors" else "pytorch_model"
    write = save_file if ending == "safetensors" else torch.save
    files = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    tensors = [{"a": torch.ones(2)}, {"b": torch.zeros(3)}]
    for file, part in zip(files, tensors, strict=True):
        write(part, tmp_path / file)
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": files[0], "b": files[1]}}))
    for name in (index, tmp_path):
        assert sorted(read_tensors(str(name)).tensors) == ["a", "b"]
    with pytest.raises(ValueError, match="is one of several files of a model; name the index instead"):
        read_tensors(str(tmp_path / files[0]))
    index.write_text(json.dumps({"weight_map": {"a": files[0], "b": files[0]}}))
    with pytest.raises(ValueError, match=r"lists what its files have not: b$"):
        read_tensors(str(index))
    index.write_text(json.dumps({"weight_map": {"a": "none"}}))
    with pytest.raises(ValueError, match=r"none: no such file; .* lists it$"):
        read_tensors(str(index))
    index.write_text("{}")
    with pytest.raises(ValueError, match="weight_map is missing"):
        read_tensors(str(index))
