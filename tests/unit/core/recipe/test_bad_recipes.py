"""Mistakes made by the hundred in the shipped recipes: each is named with its line, or rightly read."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import cli, discovery
from core.recipe import Recipe, RecipeErrors, plain, read

SHIPPED = Path(__file__).parents[4] / "projects" / "copa"
CATALOG = discovery.load()
BAD = "bad.yaml"
EXTENDS = "extends: pretrain.yaml\n"


@dataclass(frozen=True)
class Case:
    """A recipe with one mistake and the problem that must be among those reported; or, with no line, one that is
    rightly read, and the value that it must have at ``path``."""

    id: str
    text: str | bytes
    line: int = 0
    path: str = ""
    said: str = ""
    value: Any = None


# making mistakes


@dataclass(frozen=True)
class Spot:
    """A key of a recipe and its value."""

    key: yaml.ScalarNode
    value: yaml.Node
    path: str  # of the value
    file: str

    @property
    def line(self) -> int:
        return int(self.key.start_mark.line) + 1

    @property
    def slot(self) -> bool:
        """Whether the key is a name of the recipe's own: any is accepted."""
        return self.path.startswith("model.heads.") and self.path.count(".") == 2


def spots(node: yaml.Node, file: str, path: str = "") -> Iterator[Spot]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield Spot(key, value, inner, file)
            yield from spots(value, file, inner)
    elif isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            yield from spots(child, file, f"{path}[{i}]")


def span(node: yaml.Node, text: str) -> slice:
    """Where a node stands in the text, without the white space after it."""
    start = node.start_mark.index
    return slice(start, start + len(text[start : node.end_mark.index].rstrip()))


def put(text: str, place: slice, new: str) -> str:
    return text[: place.start] + new + text[place.stop :]


def misspelt(word: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """A letter dropped, two swapped, one doubled."""
    i = draw.randrange(len(word))
    yield "drop", word[:i] + word[i + 1 :]
    yield "double", word[:i] + word[i] + word[i:]
    pairs = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    if pairs:
        i = draw.choice(pairs)
        yield "swap", word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def bare_name(spot: Spot) -> bool:
    """Whether the value is the name of a part."""
    return isinstance(spot.value, yaml.ScalarNode) and (spot.path.endswith(".name") or spot.slot)


def key_cases(spot: Spot, text: str, draw: random.Random) -> Iterator[Case]:
    place, key, parent = span(spot.key, text), str(spot.key.value), spot.path.rpartition(".")[0]
    own = f"{parent}." if parent else ""
    for how, wrong in misspelt(key, draw):
        path, said = own + wrong, f"'{key}'"
        if key == "name":
            path = "*"  # it is the part that then lacks a name, unless one is inherited
        if not spot.slot and wrong:
            yield Case(f"{spot.file}-key-{how}-{spot.path}", put(text, place, wrong), spot.line, path, said)
    twice = f"{key}: 0, {key}" if in_flow(spot, text) else f"{key}: 0\n{' ' * spot.key.start_mark.column}{key}"
    line = spot.line + twice.count("\n")
    said = f"is given twice; first at {BAD}:{spot.line}:{spot.key.start_mark.column + 1}"
    yield Case(f"{spot.file}-twice-{spot.path}", put(text, place, twice), line, spot.path, said)


def in_flow(spot: Spot, text: str) -> bool:
    before = text[: spot.key.start_mark.index].rpartition("\n")[2]
    return "{" in before


def value_cases(spot: Spot, text: str, draw: random.Random) -> Iterator[Case]:
    node, place = spot.value, span(spot.value, text)
    line, written = int(node.start_mark.line) + 1, text[place]
    of_part = spot.path.removesuffix(".name")

    def wrong(how: str, new: str, said: str, path: str = spot.path) -> Case:
        return Case(f"{spot.file}-{how}-{spot.path}", put(text, place, new), line, path, said)

    if isinstance(node, yaml.MappingNode):
        yield wrong("list-for-mapping", "[1]", "found a list" if "." in spot.path else "", spot.path)
        yield wrong("number-for-mapping", "3", "'3'" if "." in spot.path else "", spot.path)
    elif isinstance(node, yaml.SequenceNode):
        yield wrong("number-for-list", "3", "expected ")
        yield wrong("mapping-for-list", "{a: 1}", "expected ")
    elif bare_name(spot):
        for how, new in misspelt(written, draw):
            yield wrong(f"name-{how}", new, f"'{written}'", of_part)
        yield wrong("list-for-name", "[1]", "", of_part)
    elif re.fullmatch(r"[\d.]+(e-?\d+)?", written):
        yield wrong("text-for-number", "many", "found 'many'")
        yield wrong("list-for-number", f"[{written}]", "found a list")
        yield wrong("mapping-for-number", f"{{a: {written}}}", "found a mapping")
        yield wrong("quoted-number", f"'{written}'", f"found '{written}' in quotes")
        yield wrong("truth-for-number", "yes", "found 'yes'")
        yield wrong("endless-number", ".inf", "found '.inf'")
        if spot.path.endswith(".weight"):
            yield Case(f"{spot.file}-negative-{spot.path}", put(text, place, "-1"), path=spot.path, value=-1.0)
        else:
            yield wrong("negative-number", "-1", "is -1")
    elif written in ("true", "false"):
        yield wrong("number-for-truth", "1", "expected true | false, found '1'")
        yield wrong("capital-truth", "True", "expected true | false, found 'True'")
    elif spot.path != "extends" and node.value and written not in ("null", "~"):
        yield wrong("list-for-text", "[a]", "")
        yield wrong("mapping-for-text", "{a: 1}", "")


def from_shipped() -> Iterator[Case]:
    draw = random.Random(0)
    for file in sorted(SHIPPED.glob("*.yaml")):
        text = file.read_text()
        for spot in spots(yaml.compose(text), file.stem):
            for made in (list(key_cases(spot, text, draw)), list(value_cases(spot, text, draw))):
                count = 3 if file.stem == "pretrain" else 1  # of each; all of them would take a minute
                yield from draw.sample(made, min(count, len(made)))


FROM_SHIPPED = list(from_shipped())

# mistakes of spelling a value: what a whole number, a number and a truth value make of it; None: refused
SPELLINGS: dict[str, tuple[int | None, float | None]] = {
    "1e-4": (None, 0.0001),
    "1E-4": (None, 0.0001),
    "1e4": (None, 10000.0),
    "2.5e-05": (None, 2.5e-5),
    ".5": (None, 0.5),
    "5.": (None, 5.0),
    "5.0": (None, 5.0),
    "1_000": (1000, 1000.0),
    "+3": (3, 3.0),
    "010": (10, 10.0),  # YAML 1.1 has 8, YAML 1.2 has 10
    "9" * 25: (None, 1e25),
    "9" * 5000: (None, None),
    "1e400": (None, None),
    "0x10": (None, None),
    "0o17": (None, None),
    "0b11": (None, None),
    "1:30": (None, None),
    "nan": (None, None),
    ".nan": (None, None),
    "inf": (None, None),
    "-.inf": (None, None),
    "Infinity": (None, None),
    "1__0": (None, None),
    "1_": (None, None),
    "_1": (None, None),
    "１": (None, None),  # a full-width digit
    "½": (None, None),
    "1 000": (None, None),
    "1.000,5": (None, None),
    "10%": (None, None),
    "1e": (None, None),
    "--1": (None, None),
    "yes": (None, None),
    "no": (None, None),
    "on": (None, None),
    "off": (None, None),
    "true": (None, None),
    "'3'": (None, None),
    '"1e-4"': (None, None),
    "2020-01-01": (None, None),
}


def spelling_cases() -> Iterator[Case]:
    for key, column in (("steps", 0), ("lr", 1)):
        for text, values in SPELLINGS.items():
            made = f"{EXTENDS}train:\n  {key}: {text}\n"
            name, path = f"{key}-{text if len(text) < 20 else f'{len(text)}-digits'}", f"train.{key}"
            if values[column] is None:
                yield Case(name, made, 3, path, "2^63" if (key, len(text)) == ("steps", 25) else "expected ")
            else:
                yield Case(name, made, path=path, value=values[column])
    for text in ("yes", "no", "on", "off", "y", "True", "FALSE", "1", "0", "'true'", "null", "~", ""):
        yield Case(
            f"evaluate-{text}", f"{EXTENDS}run:\n  evaluate: {text}\n", 3, "run.evaluate", "expected true | false"
        )
    for text, value in {"true": True, "false": False}.items():
        yield Case(f"evaluate-{text}", f"{EXTENDS}run:\n  evaluate: {text}\n", path="run.evaluate", value=value)
    for text in ("no", "007", "1e-4", "2020-01-01", "1:30", "0x10"):
        yield Case(f"text-{text}", f"{EXTENDS}data: {{vocabulary: {text}}}\n", path="data.vocabulary", value=text)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
GOOD = (SHIPPED / "pretrain.yaml").read_text()
END = GOOD.count("\n") + 1
TRAIN = f"{EXTENDS}train: "  # a flow mapping is to follow, on line 2


def structure_cases() -> Iterator[Case]:
    bad = [
        ("empty", "", 1, "is empty"),
        ("only-spaces", "  \n\n", 1, "is empty"),
        ("only-a-comment", "# nothing\n", 1, "is empty"),
        ("list-at-the-top", "- a\n- b\n", 1, "a recipe is a mapping"),
        ("text-at-the-top", "hello\n", 1, "a recipe is a mapping"),
        ("null-at-the-top", "null\n", 1, "a recipe is a mapping"),
        ("two-documents", GOOD + "---\na: b\n", END, "another document"),
        ("newer-yaml", "%YAML 3.0\n---\n" + GOOD, 1, "incompatible YAML document"),
        ("alias-bomb", BOMB, 1, "anchor '&a0': recipes take none"),
        ("alias", "a: *b\n", 1, "alias '*b': recipes take none"),
        ("anchor-and-merge", f"{EXTENDS}data: &d {{box_fraction: 0}}\ntrain: {{<<: *d}}\n", 3, "alias '*d'"),
        ("merge-key", TRAIN + "{<<: {lr: 1}}\n", 2, "train takes no such setting"),
        ("merge-key-at-the-top", EXTENDS + "<<: {run: {}}\n", 2, "no such section"),
        ("tag-that-runs", TRAIN + "!!python/object/apply:os.mkdir [owned]\n", 2, "python/object/apply:os.mkdir'"),
        ("tag-on-a-key", EXTENDS + "!!python/name:os.system : 3\n", 2, "python/name:os.system'"),
        ("tag-of-yaml", TRAIN + "{steps: !!int 3}\n", 2, "recipes take none"),
        ("tag-of-our-own", TRAIN + "!fast {lr: 1}\n", 2, "tag '!fast'"),
        ("tag-unknown", TRAIN + "!x!y 3\n", 2, "undefined tag handle '!x!'"),
        ("tag-binary", TRAIN + "{lr: !!binary aGk=}\n", 2, "recipes take none"),
        ("tab-as-indent", EXTENDS + "train:\n\tlr: 3\n", 3, "'\\t' that cannot start any token"),
        ("tab-after-colon", EXTENDS + "train:\n  lr:\t3\n", 3, "'\\t' that cannot start any token"),
        ("indented-more", EXTENDS + "train:\n  lr: 3\n   steps: 3\n", 4, "mapping values are not allowed here"),
        ("indented-less", EXTENDS + "train:\n  lr: 3\n steps: 3\n", 4, "expected <block end>"),
        ("first-key-indented", EXTENDS + "  train: {lr: 3}\n", 2, "mapping values are not allowed here"),
        ("not-indented", EXTENDS + "train:\nlr: 3\n", 3, "a recipe has no such section"),
        ("no-colon", EXTENDS + "train\nrun: {}\n", 3, f"expected ':', while scanning a simple key at {BAD}:2:1"),
        ("no-space", TRAIN.rstrip() + "{lr: 3}\n", 2, "Did you mean 'train'"),
        ("no-space-in-flow", TRAIN + "{lr:3}\n", 2, "Did you mean 'lr'"),
        ("two-colons", TRAIN + "lr: 3\n", 2, "mapping values are not allowed here"),
        ("list-of-settings", EXTENDS + "train:\n  - lr: 3\n", 3, "found a list"),
        ("left-open", TRAIN + "{lr: 3\n", 3, f"while parsing a flow mapping at {BAD}:2:8"),
        ("left-open-before-a-key", TRAIN + "{lr: 3\ndata: {box_fraction: 0}\n", 3, f"a flow mapping at {BAD}:2:8"),
        ("list-left-open", TRAIN + "{betas: [0.9, 0.9}\n", 2, f"a flow sequence at {BAD}:2:16"),
        ("closed-twice", TRAIN + "{lr: 3}}\n", 2, "found '}'"),
        ("closed-unopened", TRAIN + "3}\nrun: {}\n", 2, "found '3}'"),
        ("closed-otherwise", TRAIN + "{lr: 3]\n", 2, "got ']'"),
        ("quote-left-open", EXTENDS + "data: {vocabulary: 'x}\n", 3, f"a quoted scalar at {BAD}:2:20"),
        ("unknown-escape", EXTENDS + 'data: {vocabulary: "C:\\data"}\n', 2, "unknown escape character 'd'"),
        ("at-sign", TRAIN + "{lr: @rate}\n", 2, "'@' that cannot start any token"),
        ("thousands", TRAIN + "{steps: 1,000}\n", 2, "train takes no such setting"),
        ("template", TRAIN + "{lr: ${rate}}\n", 2, ""),
        ("nul", EXTENDS + "train:\n  lr: \x00\n", 3, r"the character '\x00' is not allowed"),
        ("nul-in-a-comment", EXTENDS + "\n\n# \x00\n", 4, r"the character '\x00' is not allowed"),
        ("escape-character", EXTENDS + "run: \x1b[31m\n", 2, r"the character '\x1b' is not allowed"),
        ("latin-1", GOOD.encode() + b"# \xfc\n", END, "not UTF-8: byte 0xfc: invalid start byte"),
        ("utf-16-cut", GOOD.encode("utf-16") + b"#", END, "not UTF-16-LE: byte 0x23: truncated data"),
        ("surrogate", EXTENDS.encode() + b"# \xed\xa0\x80\n", 2, "not UTF-8: byte 0xed"),
        ("half-a-character", EXTENDS.encode() + b"# \xc3", 2, "not UTF-8: byte 0xc3: unexpected end of data"),
        ("after-a-bom", "\ufeff" + TRAIN + "{lrr: 1}\n", 2, "Did you mean 'lr'"),
        ("after-crlf", (EXTENDS + "train:\n  lrr: 1\n").replace("\n", "\r\n"), 3, "Did you mean 'lr'"),
        ("after-cr", (EXTENDS + "train:\n  lrr: 1\n").replace("\n", "\r"), 3, "Did you mean 'lr'"),
        ("lists-in-lists", f"{EXTENDS}run: {'[' * 5000}{']' * 5000}\n", 2, "nested too deeply: at most 50 levels"),
        ("mappings-in-mappings", f"{EXTENDS}run: {'{a: ' * 5000}\n", 2, "nested too deeply: at most 50 levels"),
        ("ever-deeper", "".join(" " * i + "a:\n" for i in range(2000)), 51, "nested too deeply: at most 50 levels"),
        ("49-deep", f"{EXTENDS}train: {{groups: {'[' * 47}{']' * 47}}}\n", 2, "found a list"),
        (
            "long-line",
            f"{EXTENDS}data: {{vocabulary: {'x ' * 50_000}, box_fractions: 1}}\n",
            2,
            "Did you mean 'box_fraction'",
        ),
        ("long-key", f"{EXTENDS}train: {{{'x' * 1000}: 1}}\n", 2, "train takes no such setting"),
        ("longest-key", f"{EXTENDS}train: {{{'x' * 100_000}: 1}}\n", 2, f"a flow mapping at {BAD}:2:8"),
        ("list-as-key", EXTENDS + "[a]: 3\n", 2, "a key must be a plain word"),
        ("mapping-as-key", EXTENDS + "? {a: b}\n: 3\n", 2, "a key must be a plain word"),
        ("dots-in-a-key", EXTENDS + "train.lr: 3\n", 2, "Did you mean 'train'"),
        ("dash-for-underscore", TRAIN + "{weight-decay: 3}\n", 2, "Did you mean 'weight_decay'"),
        ("capital", EXTENDS + "Train: {lr: 3}\n", 2, "Did you mean 'train'"),
        ("number-as-key", EXTENDS + "3: {lr: 3}\n", 2, "no such section"),
        ("no-model", "objectives: {itc: {}}\ndata: scenes\n", 1, "is missing"),
        ("no-sections", "run: {}\n", 1, "is missing"),
        ("null-section", GOOD + "evaluate:\n", END, "found null, which only removes an inherited entry"),
        ("nothing-to-take-away", EXTENDS + "objectives: {ptaa: null}\n", 2, "Did you mean 'pta'"),
        ("no-name", GOOD.replace("data: {name: scenes,", "data: {"), 28, "needs the name of a data"),
        ("no-after_block", GOOD.replace("after_block: 2, ", ""), 11, "is missing: whole number at least 1"),
        ("head-without-width", EXTENDS + "model: {heads: {more: projection}}\n", 0, ""),
        (
            "share-beyond-one",
            EXTENDS + "objectives: {itm: {fraction: 1.5}}\n",
            2,
            "must be between 0 and 1, but is 1.5",
        ),
        ("nothing-a-batch", TRAIN + "{batch: 0}\n", 2, "must be at least 1, but is 0"),
        ("betas-of-three", TRAIN + "{betas: [0.9, 0.9, 0.9]}\n", 2, "found 3 entries"),
        ("betas-beyond-one", TRAIN + "{betas: [0.9, 9]}\n", 2, "must be between 0 and 0.999999, but is 9"),
        ("schedule", TRAIN + "{schedule: cosin}\n", 2, "Did you mean 'cosine'"),
        ("filled-in", EXTENDS + "model: {backbone: {guide_dim: 3}}\n", 2, "a recipe cannot set it"),
        ("extends-itself", f"extends: {BAD}\n", 1, f"goes in a circle: {BAD} extends {BAD}"),
        ("extends-nothing", "extends: pretrian.yaml\n", 1, "no such file. Did you mean 'pretrain.yaml'"),
        ("extends-a-folder", "# here\nextends: .\n", 2, "is a folder"),
        ("extends-no-folder", "extends: away/pretrain.yaml\n", 1, "There is no folder 'away'"),
        ("extends-a-list", "extends: [pretrain.yaml]\n", 1, "expected the name of a recipe file"),
        ("extends-null", "extends:\n", 1, "expected the name of a recipe file"),
        ("extends-empty", "extends: ''\n", 1, "expected the name of a recipe file"),
        ("extends-a-binary", "extends: binary.yaml\n", 1, "binary.yaml:1:2: not UTF-8: byte 0xff"),
        ("extends-nul", 'extends: "a\\0b"\n', 1, "no such file"),
        ("extends-a-long-name", f"extends: {'x' * 5000}\n", 1, "no such file"),
        ("extends-twice", f"{EXTENDS}{EXTENDS}", 2, "is given twice"),
        ("extends-deeper", GOOD + "run: {extends: pretrain.yaml}\n", END, "run takes no such setting"),
        ("extendz", "extendz: pretrain.yaml\n", 1, "Did you mean 'extends'"),
    ]
    for name, text, line, said in bad:
        yield Case(name, text, line, "*", said) if line else Case(name, text, path="model.heads.more.width", value=256)
    good = {
        "bom": b"\xef\xbb\xbf" + GOOD.encode(),
        "crlf": GOOD.replace("\n", "\r\n"),
        "cr": GOOD.replace("\n", "\r"),
        "no-last-line-end": GOOD.rstrip(),
        "begun-with-dashes": f"---\n{GOOD}",
        "ended-with-dots": f"{GOOD}...\n",
        "json-like": EXTENDS + '"train": {"lr": 3e-3}\n',
        "question-mark": EXTENDS + "? train\n: {lr: 3e-3}\n",
        "long-comment": f"# {'x' * 100_000}\n{GOOD}",
    }
    for name, text in good.items():
        yield Case(name, text, path="train.lr", value=0.003)
    yield Case("taken-away", EXTENDS + "train: {lr: null}\n", path="train.lr", value=0.001)  # the default


OTHERS = [*spelling_cases(), *structure_cases()]
OVERRIDES = {
    "train": "expected path=value",
    "=3": "expected path=value",
    ".train=3": "expected path=value",
    "train..lr=3": "expected path=value",
    " train.lr=3": "expected path=value",
    "model.backbone.prune[-1]=tpd": "expected path=value",
    "model.backbone.prune[0=tpd": "expected path=value",
    "a.b" * 1000 + "=3": "expected path=value",
    "--lr=3": "no such section",
    "trian.lr=3": "Did you mean 'train'",
    "train.lrr=3": "Did you mean 'lr'",
    "train.lr==3": "expected number at least 0, found '=3'",
    "train.lr=fast": "expected number at least 0, found 'fast'",
    "train.lr.x=3": "expected number at least 0, found a mapping",
    "train=3": "expected {init_from, steps, ",
    "train.lr={": "not YAML",
    "train.lr=[1": "not YAML",
    'train.lr="': "not YAML",
    "train.lr=%": "not YAML",
    "train.lr=\t3": "not YAML",
    "train.lr=\x00": "not YAML",
    "train.lr=\ud800": "not YAML",
    "train.lr=3\n---\n4": "another document",
    "train.lr=*a": "recipes take none",
    "train.lr=!!python/name:os.system x": "recipes take none",
    "train.lr=" + "[" * 3000: "nested too deeply",
    "train.steps=" + "9" * 25: "2^63",
    "model.backbone.prune[7]=tpd": "beyond the list's end; it has 1 entries",
    "model.backbone.prune.pruner=tpd": "is a list: say which entry",
    "model.backbone.prune[0][0]=tpd": "there is no list here",
    "train[0]=3": "there is no list here",
    "model.backbone.prune[0].pruner=tdp": "Did you mean 'tpd'",
    "model.backbone.nmae=vit": "Did you mean 'name'",
    "objectives.itcc={}": "Did you mean 'itc'",
    "objectives.pta=0.1": "expected a mapping, for example {weight: 0.1}",
    "objectives.itc.wieght=3": "Did you mean 'weight'",
    "data=scense": "Did you mean 'scenes'",
    "extends=pretrain.yaml": "no such section",
    "run.resume=yes": "expected true | false, found 'yes'",
    "run.folder=": "expected text, found null",
}


# what must come of them


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    for file in SHIPPED.glob("*.yaml"):
        shutil.copy(file, folder)
    (folder / "binary.yaml").write_bytes(b"\x00\xff")
    return folder


@pytest.fixture
def here(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(recipes)
    return recipes


def write(text: str | bytes) -> None:
    Path(BAD).write_bytes(text.encode() if isinstance(text, str) else text)


def at(recipe: Recipe, path: str) -> Any:
    found = plain(recipe)
    for step in path.split("."):
        found = found[step]
    return found


@pytest.mark.parametrize("case", [*FROM_SHIPPED, *OTHERS], ids=lambda case: case.id)
def test_a_mistake_is_named_or_rightly_read(case, here):
    write(case.text)
    begun = time.process_time()
    if case.line:
        with pytest.raises(RecipeErrors) as caught:
            read(BAD, (), CATALOG)
        found = [p for p in caught.value.problems if re.match(rf"{BAD}:{case.line}:\d+: ", str(p))]
        assert any(case.said in p.sentence and case.path in (p.path, "*") for p in found), (
            f"wanted line {case.line}, {case.path!r}, {case.said!r}; found\n{caught.value}"
        )
    else:
        value = at(read(BAD, (), CATALOG), case.path)
        assert value == pytest.approx(case.value) and type(value) is type(case.value)
    assert time.process_time() - begun < 5
    assert not Path("owned").exists(), "a tag was carried out"


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda text: text[:24].encode("unicode_escape").decode())
def test_a_wrong_override_is_quoted(override, here):
    with pytest.raises(RecipeErrors) as caught:
        read("pretrain.yaml", [override], CATALOG)
    (problem,) = caught.value.problems
    assert problem.where == f"override {override!r}"
    assert OVERRIDES[override] in problem.sentence


def test_there_are_hundreds_and_all_kinds():
    assert len(FROM_SHIPPED) + len(OTHERS) + len(OVERRIDES) >= 200
    of_keys = {case.id.partition("-key-")[0] for case in FROM_SHIPPED if "-key-" in case.id}
    assert of_keys == {file.stem for file in SHIPPED.glob("*.yaml")}


NASTY = ["alias-bomb", "tag-that-runs", "lists-in-lists", "nul", "latin-1", "two-documents", "extends-itself"]
NASTY += ["tab-as-indent", "left-open", "empty", "steps-25-digits", "evaluate-yes"]


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize("name", NASTY)
def test_the_console_says_it_in_a_line_and_ends_with_status_2(name, verb, here, capsys):
    (case,) = [case for case in OTHERS if case.id == name]
    write(case.text)
    assert cli.main([verb, BAD]) == 2
    said = capsys.readouterr()
    assert re.search(rf"^{BAD}:{case.line}:\d+: .*{re.escape(case.said)}", said.err, re.MULTILINE)
    assert "Traceback" not in said.err + said.out
