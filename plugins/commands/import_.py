"""``patchbay import KIND FILE``: others' weights as a folder that recipes and core.load read."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Callable, Sequence

from core.cli import run_cli
from core.hookspecs import hookimpl

KINDS = {  # verb: where it is done
    "open_clip": "plugins.importing.open_clip:import_open_clip",
    "timm": "plugins.importing.timm_vit:import_timm",
    "bert": "plugins.importing.bert:import_bert",
}


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("import", "weights of open_clip, timm or BERT as a folder", "plugins.commands.import_:main")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="patchbay import",
        description="Make a folder of others' weights. open_clip: a whole model, for every command and core.load. "
        "timm: a picture encoder, for model.backbone.weights. bert: for model.text.weights and model.decoder.weights.",
    )
    parser.add_argument("kind", choices=sorted(KINDS), help="whose checkpoint it is")
    parser.add_argument("file", help="a .safetensors file, or a checkpoint of torch, read without running its code")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a folder that is new or empty")
    parser.add_argument("--vocabulary", default="", metavar="FILE", help="merges of CLIP, vocab.txt or tokenizer.json")
    parser.add_argument("--config", default="", metavar="FILE", help="its JSON, where tensors do not tell all")
    args = parser.parse_args(argv)
    command = shlex.join(["patchbay", "import", *argv])

    def work() -> int:
        module, _, function = KINDS[args.kind].partition(":")
        make = getattr(importlib.import_module(module), function)
        print(make(args.file, args.out, args.vocabulary, args.config, command))
        return 0

    return run_cli(work)
