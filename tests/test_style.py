"""The language rules on short sources that obey and break them."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest
import style


def messages(rule: str, text: str) -> list[str]:
    offences, _ = style.check(rule, [style.Source.parse(dedent(text))])
    return [offence.message for offence in offences]


@pytest.mark.parametrize("opening", ["What", "How", "Whether", "Of", "As"])
@pytest.mark.parametrize("head", ["", "class A:\n    ", "def f():\n    ", "def f():\n    async def g():\n        "])
def test_openings(opening, head):
    assert f"starts with {opening!r}" in messages("docstring-start", f'{head}"""{opening} it returns."""')[0]
    assert messages("docstring-start", f'{head}"""{opening}ever."""') == []


def test_an_empty_first_line():
    assert messages("docstring-start", '"""\nRaises:\n    ValueError: always.\n"""') == ["the first line is empty"]


def test_words_of_the_first_line():
    assert messages("docstring-length", f'"""{"word " * 21}"""') == ["21 words in the first line; at most 20"]
    assert messages("docstring-length", f'"""{"word " * 18} (B, N, D) ``a = b``\n{"word " * 30}"""') == []


@pytest.mark.parametrize(
    "line",
    [
        "held = 1",
        "x: int = _held",
        "def held(): ...",
        "class Held: ...",
        "f(held=1)",
        "a.held",
        "lambda held: 0",
        "import a as held",
        "from held.a import b",
        "try: pass\nexcept E as held: pass",
        "match x:\n    case {**held}: pass",
    ],
)
def test_banned_identifiers(line):
    assert len(messages("banned-identifier", line)) == 1


@pytest.mark.parametrize("line", ["held_out = 1", "x = {'held': 1}", "kept_patches = 2", "# held", "f('held')"])
def test_other_identifiers(line):
    assert messages("banned-identifier", line) == []


def test_compat_may_name_what_it_replaces():
    source = style.Source.parse("held = 1", style.Path("core/compat/names.py"))
    assert style.check("banned-identifier", [source])[0] == []


SHAPES = """(B, N, D)|(B, H, N, D / heads)|(R, 3, H, W) uint8|(b, D)|(n, E)|(...,)|(n,)|(B, N + L)|(3, 224, 224)|(B, 2D)
(2 * B, D_v)|(B, stop - start)|(B, N', D)|(H x W, 3)|a scalar|any shape"""


@pytest.mark.parametrize("text", SHAPES.replace("\n", "|").split("|"))
def test_shapes(text):
    assert messages("shapes", f"def f(x: Tensor) -> int:\n    return x  # {text}") == []
    assert messages("shapes", f'def f(x: int) -> "Tokens | None":\n    """Encode, {text}."""') == []


@pytest.mark.parametrize("text", ["", "(COPA)", "(Yu et al, 2022)", "(Yu, 2022)", "(of all, in order)", "f(x)", "(B)"])
def test_texts_without_a_shape(text):
    assert messages("shapes", f'def f(x: Tensor):\n    """Encode {text}."""') == ["f states no shape"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("class A:\n    def forward(self, step): ...", 1),
        ("class A:\n    def __call__(self, x: Tensor): ...", 1),
        ("class A:\n    def __getitem__(self, x: Tensor): ...", 0),
        ("def f(*x: Tensor): ...", 1),
        ("def f(x: list[torch.Tensor]): ...", 1),
        ("def f(x: Callable[[Tensor], Tensor]): ...", 0),
        ("def f(x: dict[str, Tensor]): ...", 0),
        ("def f():\n    def g(x: Tensor): ...", 0),
        ("@overload\ndef f(x: Tensor): ...", 0),
        ("def f(x: Tensorboard): ...", 0),
    ],
)
def test_tensor_functions(text, count):
    assert len(messages("shapes", text)) == count


BODY = "def f():\n    {0}\n    {1}"
SECTION = '"""Do.\n\n    Raises:\n        ValueError: always.\n    """'


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (BODY.format("pass", "raise ValueError('x')"), "ValueError"),
        (BODY.format(SECTION, "raise ValueError('x')"), None),
        (BODY.format(SECTION, "raise module.Bad('x')"), "Bad"),
        (BODY.format('"""Do, or ValueError."""', "raise ValueError"), "ValueError"),
        (BODY.format("pass", "raise fail(1)"), "the error that a helper builds"),
        (BODY.format(SECTION, "raise fail(1)"), None),
        (BODY.format("try: pass", "except E as err: raise err"), None),
        (BODY.format("try: pass", "except E: raise"), None),
        (BODY.format("pass", "raise NotImplementedError"), None),
        (BODY.format("def g(): raise ValueError", "return g"), None),
        ("def _f(): raise ValueError", None),
        ("class A:\n    def __init__(self): raise ValueError", "ValueError"),
        (f"class A:\n    {SECTION}\n    def __init__(self): raise ValueError", None),
        ("class _A:\n    def f(self): raise ValueError", None),
    ],
)
def test_raises(text, missing):
    (message,) = messages("raises", text) or [None]
    assert (message or "").partition("lacks ")[2] == (missing or "")


MANY = ", ".join(f"a{i}" for i in range(11))
FIELDS = "".join(f"    a{i}: int\n" for i in range(11))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (f"class A:\n    def __init__(self, {MANY}): ...", 1),
        (f"class A:\n    def __init__(self, *, {MANY}): ...  # arguments: as many as the paper has", 0),
        (f"class A:\n    # arguments: as many as the paper has\n    def __init__(self, {MANY}): ...", 0),
        (f"class A:\n    # arguments:\n    def __init__(self, {MANY}): ...", 1),
        (f"class A:\n    def __init__(self, {MANY.removesuffix(', a10')}): ...", 0),
        (f"class A:\n    def other(self, {MANY}): ...", 0),
        (f"@dataclass(frozen=True)\nclass A:\n{FIELDS}", 1),
        (f"# arguments: keys of a recipe\n@dataclass(frozen=True)\nclass A:\n{FIELDS}", 0),
        (f"class A(NamedTuple):\n{FIELDS}", 1),
        (f"class A:\n{FIELDS}", 0),
        (f"@dataclass\nclass A:\n{FIELDS}".replace("a9: int", "a9: ClassVar[int]"), 0),
    ],
)
def test_constructor_arguments(text, count):
    assert len(messages("constructor-arguments", text)) == count


def test_the_checker_obeys_its_rules_and_prints_offences(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text('"""Of all."""\n\nown = 1\n')
    command = [sys.executable, style.__file__]
    assert subprocess.run([*command, style.__file__]).returncode == 0
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{bad}:1: docstring-start: ")
    assert second == f"{bad}:3: banned-identifier: 'own'"
    summary = subprocess.run([*command, str(tmp_path), "--summary"], capture_output=True, text=True).stdout
    assert "docstring-start            1 of 1 (0 % good)" in summary
