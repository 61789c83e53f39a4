"""``patchbay import KIND FILE``: convert a checkpoint to a folder that recipes and ``core.load`` can read."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Sequence

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, put, run_cli

KINDS = {  # kind: the function that imports it
    "open_clip": "plugins.importing.open_clip:import_open_clip",
    "timm": "plugins.importing.timm_vit:import_timm",
    "bert": "plugins.importing.bert:import_bert",
}


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("import", "convert weights of open_clip, timm or BERT", "plugins.commands.import_:main")


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="patchbay import",
        description="Convert a checkpoint to a folder. open_clip: a complete model, for all commands and core.load. "
        "timm: an image encoder, for model.backbone.weights. bert: for model.text.weights and model.decoder.weights. "
        "What neither the tensors nor a configuration determine is guessed and printed. The outputs are compared with "
        "the original library's where it is installed.",
    )
    parser.add_argument("kind", choices=sorted(KINDS), help="library of the checkpoint")
    parser.add_argument(
        "file", help="a .safetensors file, a torch checkpoint (its code is not run), an index, or a folder"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--vocabulary", default="", metavar="FILE", help="merges of CLIP, vocab.txt or tokenizer.json")
    parser.add_argument(
        "--config", default="", metavar="FILE", help="the model's JSON file; else the one beside the checkpoint"
    )
    args = parser.parse_args(argv)
    command = shlex.join(["patchbay", "import", *argv])

    def work() -> int:
        module, _, function = KINDS[args.kind].partition(":")
        convert = getattr(importlib.import_module(module), function)
        put(convert(args.file, args.out, args.vocabulary, args.config, command))
        return 0

    return run_cli(work)
