"""``patchbay flops``: count the multiply-adds of a recipe's model, or of one of timm's, in several ways."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.hookspecs import hookimpl
from plugins.commands.console import Parser, print_report, run_cli

if TYPE_CHECKING:
    from plugins.compute.dry_run import DryRun
    from plugins.compute.fvcore_macs import MacCount

Report = dict[str, Any]
TIMM = "timm:"
NOT_INCLUDED = (
    "One multiply-add is one MAC. Norms, activations, softmax, sums and indexing are not counted, as is usual."
)


@hookimpl
def commands(add: Callable[[str, str, str], None]) -> None:
    add("flops", "MACs of a recipe's model by part, counted three ways", "plugins.commands.flops:main")


def flops(path: str, overrides: Sequence[str] = ()) -> Report:
    """Return the MACs of a recipe or a folder: ``{total, unpruned, parts, unpruned_parts, checks, training, ...}``.

    Inference is one image with one text of the recipe's full length (plugins.compute.fvcore_macs.PairInference),
    counted by fvcore on real tensors. ``checks`` holds the same by torch's counter and by closed form, with the
    greatest ``difference`` from fvcore as a share; where a part has no closed form, ``{missing: its name}``.
    ``training`` is one optimizer step at the recipe's batch, by torch's counter: forward, backward, total, per_picture,
    and each loss if it were alone.

    Raises:
        RecipeErrors, PartError, ValueError: the recipe has problems, or its parts cannot be built.
    """
    from core import discovery

    catalog = discovery.load()
    from plugins.compute import dry_run  # after the plugins, whose imports would warn
    from plugins.compute.recipe_or_folder import read_recipe

    recipe = read_recipe(path, overrides, catalog)
    dry = dry_run.build_dry_run(recipe, dry_run.data_spec(recipe))
    return {**inference(dry), "training": training(dry)}


def inference(dry: DryRun) -> Report:
    """Return the MACs of one image with one text: the result of ``flops`` without ``training``."""
    pruned, whole = _by_fvcore(dry)
    report: Report = {
        "total": pruned.total,
        "unpruned": whole.total,
        "parts": pruned.parts,
        "unpruned_parts": whole.parts,
        "image_size": dry.sizes.image_size,
        "text_length": dry.sizes.text_length,
        "checks": {
            "torch": _compared((pruned, whole), (dry.pair(), dry.pair(pruned=False))),
            "closed_form": _by_formula((pruned, whole), dry),
        },
    }
    return {**report, "uncounted": pruned.uncounted} if pruned.uncounted else report


def _by_fvcore(dry: DryRun) -> tuple[MacCount, MacCount]:
    """Count MACs with fvcore, pruned and unpruned."""
    from plugins.compute import dry_run
    from plugins.compute.fvcore_macs import PairInference

    model, inputs = dry_run.zero_model(dry.recipe, dry.sizes), dry_run.full(dry.sizes, 1)
    pruned = PairInference(model).count(*inputs)
    if not model.pruners:
        return pruned, pruned
    with model.unpruned():
        return pruned, PairInference(model).count(*inputs)


def _by_formula(counted: tuple[MacCount, MacCount], dry: DryRun) -> Report:
    from plugins.compute import closed_form

    sizes = dry.sizes.text_length, dry.sizes.frames or 1
    try:
        pruned = closed_form.of_pair(dry.model, *sizes)
        with dry.model.unpruned():
            return _compared(counted, (pruned, closed_form.of_pair(dry.model, *sizes)))
    except closed_form.NoFormula as err:
        return {"missing": str(err)}


def _compared(counted: tuple[MacCount, MacCount], other: tuple[MacCount, MacCount]) -> Report:
    difference = max(abs(b.total - a.total) / a.total for a, b in zip(counted, other, strict=True))
    return {"total": other[0].total, "unpruned": other[1].total, "difference": difference}


def training(dry: DryRun) -> Report:
    """Return the MACs of one optimizer step at the recipe's batch: ``training`` in the result of ``flops``."""
    settings, whole = dry.recipe.train, dry.cost()
    pictures = settings.batch * settings.gradient_accumulation_steps
    forward, backward = (
        whole.forward * settings.gradient_accumulation_steps,
        whole.backward * settings.gradient_accumulation_steps,
    )
    losses = {name: (c.forward + c.backward) * settings.gradient_accumulation_steps for name, c in dry.alone().items()}
    return {
        "pictures": pictures,
        "precision": dry.precision,
        "device": dry.device.type,
        "forward": forward,
        "backward": backward,
        "total": forward + backward,
        "per_picture": round((forward + backward) / pictures),
        "losses_alone": losses,
    }


def timm_flops(name: str, image_size: int | None = None) -> Report:
    """Return the MACs of one of timm's models for one image. Weights are random; nothing is downloaded.

    Raises:
        ValueError: timm has no such model, or it takes no image of that size.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm's, of torch.jit.script
        import timm

    from plugins.compute import torch_macs
    from plugins.compute.fvcore_macs import count
    from registry import near

    if not timm.is_model(name):
        raise ValueError(f"{TIMM}{name}: timm has no such model.{near(name, timm.list_models())}")
    model = timm.create_model(name)
    channels, *side = timm.data.resolve_model_data_config(model)["input_size"]
    if image_size is not None and image_size != side[0]:
        side = [image_size, image_size]
        with contextlib.suppress(TypeError):  # a convolutional network takes any size
            model = timm.create_model(name, img_size=image_size)
    images = torch.zeros(1, channels, *side)
    parts = {part: [module] for part, module in model.named_children() if any(True for _ in module.parameters())}
    try:
        counted = count(model, (images,), parts)
    except AssertionError as err:
        raise ValueError(f"{TIMM}{name} at {image_size} pixels: {err}") from err
    other = torch_macs.count(model, (images,), parts).total
    return {
        "total": counted.total,
        "parts": counted.parts,
        "image_size": side[0],
        "checks": {"torch": {"total": other, "difference": abs(other - counted.total) / counted.total}},
        **({"uncounted": counted.uncounted} if counted.uncounted else {}),
    }


def _prunes(report: Report) -> bool:
    """Return True if pruning changes the MACs of a part."""
    return "unpruned_parts" in report and bool(report["unpruned_parts"] != report["parts"])


def _table(report: Report) -> list[str]:
    from plugins.compute.torch_macs import amount, ratio
    from plugins.hooks.report_table import columns

    words = f" with a text of {report['text_length']} words (full length)" if "text_length" in report else ""
    lines = [f"MACs of an image of {report['image_size']} x {report['image_size']} pixels{words}"]
    rows: list[tuple[str, ...]] = [(part, amount(number)) for part, number in report["parts"].items()]
    rows.append(("total", amount(report["total"])))
    if _prunes(report):
        whole = [*report["unpruned_parts"].values(), report["unpruned"]]
        rows = [(*row, amount(number)) for row, number in zip(rows, whole, strict=True) if row[1] != "0" or number]
        lines += columns([("", "pruned", "unpruned"), *rows])
        lines.append(f"  unpruned to pruned: {ratio(report['unpruned'], report['total'])}")
    else:
        lines += columns([row for row in rows if row[1] != "0"])
    lines += ["", "Total by each counter", *columns(_checks(report))]
    if "training" in report:
        lines += ["", *_training_table(report)]
    if report.get("uncounted"):
        lines += ["", "Unknown operators, counted as 0: " + ", ".join(sorted(report["uncounted"]))]
    return [*lines, "", NOT_INCLUDED]


def _checks(report: Report) -> list[tuple[str, ...]]:
    names = {"torch": "torch's counter", "closed_form": "closed form"}
    totals = ["total", "unpruned"] if _prunes(report) else ["total"]
    rows: list[tuple[str, ...]] = [("fvcore", *(f"{report[key]:,}" for key in totals), "")]
    for key, check in report["checks"].items():
        if "missing" in check:
            rows.append((names[key], *("-" for _ in totals), f"none for {check['missing']}"))
        else:
            off = f"off by {100 * check['difference']:.4f} %"
            rows.append((names[key], *(f"{check[total]:,}" for total in totals), off))
    return rows


def _training_table(report: Report) -> list[str]:
    from plugins.compute.torch_macs import amount, ratio
    from plugins.hooks.report_table import columns

    training = report["training"]
    where = f"{training['pictures']} images, texts of full length, {training['precision']} on {training['device']}"
    rows: list[tuple[str, ...]] = [(key, amount(training[key])) for key in ("forward", "backward", "total")]
    rows.append(("per image", amount(training["per_picture"])))
    inference = "unpruned inference" if _prunes(report) else "inference"
    rows.append((f"per image, relative to one {inference}", ratio(training["per_picture"], report["unpruned"])))
    rows += [(f"only {name}", amount(number)) for name, number in training["losses_alone"].items()]
    return [f"One training step by torch's counter ({where})", *columns(rows)]


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="patchbay flops",
        description="Multiply-adds (MACs) of a recipe's model by part, pruned and unpruned, for one image with one "
        "text of the recipe's full length, by fvcore, torch's counter and closed form; and of one training step. "
        + NOT_INCLUDED,
    )
    parser.add_argument(
        "recipe",
        metavar="recipe|folder",
        help="a YAML file, one of patchbay list, the folder of a run or an import, "
        f"or {TIMM}NAME, such as timm:vit_base_patch16_224",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="path=value", help="model.backbone.prune[0].pruner.keep_rate=0.3"
    )
    parser.add_argument("--image-size", type=int, help=f"image size in pixels, for {TIMM}NAME")
    parser.add_argument("--json", action="store_true", help="print {total, unpruned, parts, checks, training}")
    args = parser.parse_intermixed_args(argv)

    def work() -> Report:
        if not args.recipe.startswith(TIMM):
            if args.image_size is not None:
                raise ValueError("--image-size is for timm:NAME; a recipe takes data.image_size=N")
            return flops(args.recipe, args.overrides)
        if args.overrides:
            raise ValueError(f"{args.recipe} has no settings to override: {args.overrides[0]}")
        return timm_flops(args.recipe.removeprefix(TIMM), args.image_size)

    return run_cli(lambda: print_report(work, args.json, _table))
