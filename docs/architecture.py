"""Draw docs/architecture.svg: recipe, parts, step, losses, and where a pruner sits.

Run ``python docs/architecture.py`` after a change; tests/test_architecture_diagram.py compares file and script.
Lengths are in pixels of an image 900 wide, in which no text is smaller than 12.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 900, 1340
MONO = 7.3  # width of a monospaced character at 12 px, rounded up
LIGHT = {"text": "#1f2328", "muted": "#59636e", "box": "#f6f8fa", "edge": "#818b98", "line": "#59636e"}
LIGHT |= {"accent": "#bc4c00", "tint": "#fff1e5", "group": "#d1d9e0"}
DARK = {"text": "#f0f6fc", "muted": "#9ea7b3", "box": "#1b222c", "edge": "#6e7781", "line": "#9ea7b3"}
DARK |= {"accent": "#f0883e", "tint": "#3a2413", "group": "#3d444d"}
FONTS = """text { font: 12px system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
.name { font-size: 13px; font-weight: 600; }
.code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
rect, path { stroke-width: 1.2; fill: none; } .optional { stroke-dasharray: 5 4; }"""
RULES = """text {{ fill: {text}; }} .note {{ fill: {muted}; }} .hot, .hot-head {{ fill: {accent}; }}
.box {{ fill: {box}; stroke: {edge}; }} .group, .rule {{ stroke: {group}; }} .line {{ stroke: {line}; }}
.pruner {{ fill: {tint}; stroke: {accent}; stroke-width: 2; }} .accent {{ stroke: {accent}; stroke-width: 2; }}
.head, .dot {{ fill: {line}; }} .ring {{ stroke: {line}; stroke-width: 1.5; fill: none; }}"""
MARKER = """<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" \
markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 Z" class="{}"/></marker>"""
HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>Architecture of Patchbay</title>
<desc>Recipe, registered parts, model slots, features of a step, losses; pruners after or inside a block.</desc>
<style>{FONTS}
{RULES.format(**LIGHT)}
@media (prefers-color-scheme: dark) {{
{RULES.format(**DARK)}
}}</style>
<defs>{MARKER.format("tip", "head")}{MARKER.format("hot", "hot-head")}</defs>"""
RECIPE = """model:
  backbone: {name: vit, prune: [{after_block: 2, pruner: tpd}]}
  text: bert
  fusion: skip_connected
  decoder: decoupled
  heads: {image: projection, text: projection, match: match,
          temperature: temperature, words: vocabulary}
objectives: {itc: {}, itm: {}, mlm: {}, pta: {weight: 4}}
data: {name: scenes, image_size: 64}
train: {steps: 1700, batch: 96}"""
LOSSES = ("ITC", "ITM", "MLM", "prefix LM", "caption", "PTA")
READS = (  # expression, explanation, one mark a loss: # direct, o through another feature, - none
    ("step.trunk", "blocks 1 … k, once for all guides", "ooooo-"),
    ("step.image", "encode_image: null guide (leak_free)", "##--#-"),
    ("step.text", "whole captions, encoded", "##----"),
    ("step.decoder_text", "whole captions, unimodal half", "----#-"),
    ("step.image_for(rows, words)", "guided by words, else step.image", "-ooo--"),
    ("step.fuse(rows, words)", "fusion of words and image_for", "-###--"),
    ("model.encode_text(text)", "masked, prefix or region text", "--##-#"),
    ("model.decoder(words, memory)", "multimodal half", "---##-"),
    ("model.score(trunk, words)", "the pruner's scores, boxed images", "-----#"),
    ("heads: image, text, temperature", "cosines, hard negatives", "##----"),
    ("heads: match", "fused [CLS]", "-#----"),
    ("heads: words", "vocabulary logits", "--###-"),
)
DOTS = {"#": "dot", "o": "ring"}
FIELDS = ("", "", "masked", "prefixed", "", "regions")  # of the batch, besides images and text
RIGHTWARD = (  # arrows of the model's lanes: image, text, decoder; from x, y, to x
    *((84, 95, 120), (230, 95, 252), (350, 95, 370), (522, 95, 568), (690, 95, 730)),
    *((84, 232, 110), (302, 206, 730), (302, 245, 588), (690, 245, 730)),
    *((84, 330, 358), (500, 319, 548), (690, 323, 730)),
)
CONTRACT = (
    ("forward(tokens, guide, cues)", "returns tokens.keep(index, scores=scores); index (B, K): the patches kept"),
    ("score(tokens, guide, cues)", "returns logits (B, P), one a patch, or None; PTA reads them by Model.score"),
    ("prune: [...]", "a single-stream fusion takes one too; its pruners act on [words ; patches]"),
)


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> str:
    """Return a line of text with its baseline at ``y``."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, *lines: str, style: str = "box") -> str:
    """Return a rectangle with centred lines: a bold name, then notes; a line in backticks is code."""
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{style}"/>']
    top = y + height / 2 - 8 * (len(lines) - 1) + 4
    for i, line in enumerate(lines):
        kind = "code" if line.startswith("`") else "note" if i else "name"
        parts.append(text(x + width / 2, top + 16 * i, line.strip("`"), kind, "middle"))
    return "\n".join(parts)


def arrow(*points: tuple[float, float], style: str = "line") -> str:
    """Return a polyline that ends in an arrow head."""
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="{path}" class="{style}" marker-end="url(#{"hot" if "accent" in style else "tip"})"/>'


def dot(x: float, y: float, mark: str) -> str:
    """Return a filled dot for ``#``, an open one for ``o``."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{5 if mark == "#" else 4.2}" class="{DOTS[mark]}"/>'


def recipe() -> list[str]:
    """Draw the recipe, the plugins and the registry that joins them."""
    parts = [box(10, 0, 480, 206), text(24, 22, "recipe", "name"), text(80, 22, "YAML", "note")]
    for i, line in enumerate(RECIPE.splitlines()):
        stripped = line.lstrip()
        parts.append(text(24 + MONO * (len(line) - len(stripped)), 42 + 17 * i, stripped, "code"))
    parts += [box(560, 0, 330, 92), text(574, 22, "plugins", "name"), text(640, 22, "pluggy", "note")]
    parts += [text(574, 42, "def register(add):", "code"), text(603, 58, 'add("tpd", TextAwarePatchDetector)', "code")]
    parts += [text(574, 75, "built in, or entry points of other packages", "note"), arrow((725, 92), (725, 124))]
    schema = ("names to classes: the base class is the kind,", "the signature lists the accepted settings")
    parts += [box(560, 126, 330, 80, "registry", *schema), text(499, 158, "names"), arrow((490, 166), (558, 166))]
    parts += [arrow((725, 206), (725, 242)), text(716, 229, "checked, then built: one part a slot", "note", "end")]
    return [*parts, arrow((47, 206), (47, 262)), text(55, 229, "the data part yields batches", "note")]


def model() -> list[str]:
    """Draw the model's slots in three lanes: image, text, decoder."""
    parts = [box(100, 0, 764, 364, style="group"), text(112, 20, "Model", "name"), box(10, 20, 74, 330)]
    parts += [text(47, 42, "Batch", "name", "middle"), box(112, 38, 430, 102, style="group")]
    parts += [text(122, 55, "backbone", "name"), box(122, 64, 108, 62, "blocks 1 … k", "no text needed", "`trunk()`")]
    parts += [box(244, 46, 290, 86, style="group optional"), text(366, 61, "run_pruned_blocks()", "code")]
    parts += [box(254, 68, 96, 54, "pruner", "in prune: [...]", style="pruner")]
    parts += [box(372, 68, 150, 54, "blocks k+1 … n", "on fewer patches"), box(350, 284, 350, 70, style="group")]
    parts += [box(570, 64, 120, 62, "pooler", "optional", "`encode_image()`"), text(360, 280, "decoder", "name")]
    parts += [box(112, 188, 190, 72, "text encoder", "`encode_text()`"), box(590, 218, 100, 46, "fusion")]
    parts += [box(360, 292, 140, 54, "unimodal half", "words alone, causal")]
    parts += [box(550, 292, 140, 54, "multimodal half", "attends to memory")]
    parts += [box(732, 38, 124, 316), text(794, 58, "heads", "name", "middle")]
    fields = ((47, 99, "images"), (47, 236, "text"))
    heads = ((794, 99, "image, classify"), (794, 210, "text"), (794, 249, "match, words"), (794, 327, "words"))
    parts += [text(x, y, name, "code", "middle") for x, y, name in fields + heads]
    parts += [arrow((left, y), (right, y)) for left, y, right in RIGHTWARD]
    parts += [box(312, 150, 90, 26, "`null guide`", style="box optional"), text(410, 167, "where no text", "note")]
    parts += [arrow((280, 188), (280, 124), style="accent"), text(272, 162, "guide", "hot", "end")]
    parts += [arrow((330, 150), (330, 124), style="accent optional"), arrow((640, 126), (640, 216))]
    parts += [arrow((572, 126), (572, 290), style="line optional"), arrow((640, 264), (640, 290))]
    notes = ((648, 166, "tokens"), (648, 280, "memory"), (312, 200, "pooled: [CLS]"), (312, 238, "states (B, L, D)"))
    remark = ((112, 300, "Without a text encoder, the"), (112, 316, "unimodal half encodes the text."))
    return [*parts, text(565, 266, "no fusion", "note", "end"), *(text(*line, "note") for line in notes + remark)]


def losses() -> list[str]:
    """Draw which loss reads which feature, and the sum that the trainer minimises."""
    columns, bottom = [552 + 56 * i for i in range(len(LOSSES))], 52 + 23 * len(READS)
    parts = [box(10, 0, 854, bottom + 14, style="group"), text(24, 24, "Step", "name")]
    parts += [text(66, 24, "features of one batch, computed when first read", "note")]
    parts += [text(x, 24, name, "", "middle") for x, name in zip(columns, LOSSES, strict=True)]
    for i, (code, note, marks) in enumerate(READS):
        row = 52 + 23 * i
        if i in (0, 6, 9):
            parts.append(f'<path d="M24 {row - 11.5} H850" class="rule"/>')
        parts += [text(24, row + 4, code, "code"), text(272, row + 4, note, "note")]
        parts += [dot(x, row, mark) for x, mark in zip(columns, marks, strict=True) if mark != "-"]
    parts += [f'<path d="M24 {bottom - 11.5} H850" class="rule"/>', text(24, bottom + 4, "batch fields", "code")]
    parts += [text(272, bottom + 4, "besides images and text", "note"), arrow((524, bottom + 66), (470, bottom + 66))]
    parts += [text(x, bottom + 4, field, "code", "middle") for x, field in zip(columns, FIELDS, strict=True)]
    parts += [text(404, 24, "objectives", "name"), *(arrow((x, bottom + 14), (x, bottom + 42)) for x in columns)]
    parts += [box(524, bottom + 44, 340, 44, "weighted sum", "Σ weight · loss; weights from the recipe")]
    for x, mark, note in ((24, "#", "read by the loss"), (160, "o", "through another feature")):
        parts += [dot(x, bottom + 29, mark), text(x + 10, bottom + 33, note, "note")]
    return [*parts, box(10, bottom + 44, 458, 44, "trainer", "backward, clipping, optimizer step, hooks, checkpoints")]


def placement() -> list[str]:
    """Draw a pruner after a block, and one inside a block."""
    parts = [text(10, 0, "Where a pruner sits", "name"), text(172, 0, "at block i of a prune list", "note")]
    # left edge, width, name, length of the arrow before it
    after = ((22, 86, "attention", 18), (126, 80, "MLP", 18), (238, 84, "pruner", 32), (344, 80, "block i+1", 22))
    inside = ((22, 86, "attention", 18), (128, 84, "pruner", 20), (234, 72, "MLP", 22), (340, 84, "block i+1", 34))
    for x, place, note, boxes, block in (
        (10, "after_block", "tpd, random: i blocks before the first pruner", after, 204),
        (456, "in_block", "evit: i − 1 blocks before the first pruner", inside, 304),
    ):
        parts += [box(x, 12, 434, 166, style="group"), text(x + 12, 32, place, "code"), text(x + 100, 32, note, "note")]
        parts += [box(x + 12, 66, block, 78, style="group"), text(x + 22, 83, "block i", "note")]
        for left, width, name, gap in boxes:
            parts.append(box(x + left, 92, width, 42, name, style="pruner" if name == "pruner" else "box"))
            parts.append(arrow((x + left - gap, 113), (x + left - 2, 113)))
    parts += [text(236, 84, "no keys, no attention", "note"), box(584, 44, 196, 24, "`BlockCues: keys, attention`")]
    parts += [arrow((540, 92), (540, 56), (582, 56)), arrow((626, 68), (626, 90))]
    parts += [arrow((x, 162), (x, 136), style="accent") for x in (290, 626)]
    parts += [text(x, 164, "guide", "hot") for x in (298, 634)]
    for i, (code, note) in enumerate(CONTRACT):
        parts += [text(10, 202 + 19 * i, code, "code"), text(230, 202 + 19 * i, note, "note")]
    return parts


def draw() -> str:
    """Return the whole image as SVG."""
    sections = ((8, recipe()), (252, model()), (636, losses()), (1088, placement()))
    groups = ("\n".join([f'<g transform="translate(0 {y})">', *parts, "</g>"]) for y, parts in sections)
    pruner_to_pta = arrow((302, 320), (302, 283), (880, 283), (880, 872), (842, 872), style="accent")
    scores = text(560, 277, "score(): logits (B, P), trained by PTA", "hot")
    return "\n".join((HEAD, *groups, pruner_to_pta, scores, "</svg>\n"))


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
