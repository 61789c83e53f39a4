"""Language rules of the sources, checked on their syntax trees: docstrings, names, shapes, errors, constructors.

    python tests/style.py [PATH ...] [--rule RULE] [--summary]

prints ``file:line: rule: message`` for files or folders (default: all sources); ``--summary`` prints counts instead.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("core", "plugins", "registry", "patchbay.py")
OPENINGS = ("What", "How", "Whether", "Of", "As")
MAX_WORDS = 20  # of a docstring's first line
MAX_ARGUMENTS = 10  # of a constructor
BANNED = frozenset(
    "held made own found shown said seen wanted told look asked learnt waited leads pulls".split()  # noqa: SIM905
)
TENSORS = frozenset({"Tensor", "Tokens"})
KEYED = frozenset({"Callable", "dict", "Mapping", "type"})  # callbacks and tensors by name: no shape to state

ATOM = r"(?:\d*[A-Za-z]\w*'?|\d+|\.\.\.)"
LENGTH = rf"{ATOM}(?:\s*(?://|[-+*/]|\bx\b)\s*{ATOM})*"
TUPLE = re.compile(rf"\(({LENGTH}(?:\s*,\s*{LENGTH})*,?)\)")
SYMBOL = re.compile(r"(?<![A-Za-z])[A-Za-z](?:_\w+|\d)?'?(?![A-Za-z])|\.\.\.")  # N, b, D_v, N'
IN_WORDS = re.compile(r"\bscalars?\b|\b(?:any|same) shape\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Check(NamedTuple):
    """One place that a rule looked at; no message where it is obeyed."""

    line: int
    message: str | None = None


class Offence(NamedTuple):
    """A broken rule and its place."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Source:
    """A parsed file and its comments by line."""

    path: Path
    tree: ast.Module
    comments: dict[int, str]

    @classmethod
    def parse(cls, text: str, path: Path = Path("snippet.py")) -> Source:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
        return cls(path, ast.parse(text, str(path)), comments)


class Definition(NamedTuple):
    """A function, the class it is a method of, and whether it stands inside another function."""

    function: Function
    owner: ast.ClassDef | None
    nested: bool

    @property
    def label(self) -> str:
        return f"{self.owner.name}.{self.function.name}" if self.owner else self.function.name


def definitions(node: ast.AST, owner: ast.ClassDef | None = None, nested: bool = False) -> Iterator[Definition]:
    """List all functions below a node, overloads left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            if "overload" not in map(name_of, child.decorator_list):
                yield Definition(child, owner, nested)
            yield from definitions(child, None, True)
        else:
            yield from definitions(child, child if isinstance(child, ast.ClassDef) else owner, nested)


def name_of(node: ast.AST | None) -> str:
    """Return the last name of ``name``, ``module.name``, and of a call or subscript of either; else the empty text."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def first_line(node: ast.AST) -> tuple[int, str] | None:
    """Return the line and the text of a docstring's first line; None without a docstring."""
    body = getattr(node, "body", None)
    if isinstance(node, Function | ast.ClassDef | ast.Module) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.lineno, (value.value.splitlines() or [""])[0].strip()
    return None


def docstrings(source: Source) -> Iterator[Check]:
    """The first line is a summary that starts with a verb or noun."""
    for line, text in filter(None, map(first_line, ast.walk(source.tree))):
        opening = re.match(r"\w*", text)
        message = None
        if not text:
            message = "the first line is empty"
        elif opening and opening[0] in OPENINGS:
            message = f"starts with {opening[0]!r}; start with a verb or a noun: {text[:60]!r}"
        yield Check(line, message)


def lengths(source: Source) -> Iterator[Check]:
    """The first line has few words; a shape or a piece of code counts as one."""
    for line, text in filter(None, map(first_line, ast.walk(source.tree))):
        plain = re.sub(r"``.*?``", "code", TUPLE.sub("shape", text))
        count = sum(any(map(str.isalnum, word)) for word in plain.split())
        yield Check(line, f"{count} words in the first line; at most {MAX_WORDS}" if count > MAX_WORDS else None)


def identifiers(node: ast.AST) -> Iterator[str]:
    """List the names that a node itself introduces or uses."""
    for field in ("id", "arg", "attr", "name", "asname", "rest"):
        if isinstance(value := getattr(node, field, None), str):
            yield from value.split(".")
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from node.module.split(".")


def banned(source: Source) -> Iterator[Check]:
    """No banned word as a whole identifier. core/compat may name what it replaces."""
    if "compat" in source.path.parts:
        return
    places = {(getattr(node, "lineno", 1), name): None for node in ast.walk(source.tree) for name in identifiers(node)}
    for line, name in sorted(places):
        yield Check(line, f"{name!r}" if name.strip("_").lower() in BANNED else None)


def is_shape(text: str) -> bool:
    """Recognise a shape in a text: ``(B, N, D / heads)``, ``(n,)``, ``(3, 224, 224)``, scalar, any shape."""
    for match in TUPLE.finditer(text):
        parts = [part.strip() for part in match[1].split(",")]
        if len(parts) > 1 and (all(p.isdigit() for p in parts if p) or any(map(SYMBOL.search, parts))):
            return True
    return IN_WORDS.search(text) is not None


def names_tensor(annotation: ast.AST | None) -> bool:
    """Search a type for tensors, other than in a callback's signature or by key."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return names_tensor(ast.parse(annotation.value, mode="eval").body)
    if annotation is None or (isinstance(annotation, ast.Subscript) and name_of(annotation) in KEYED):
        return False
    return name_of(annotation) in TENSORS or any(map(names_tensor, ast.iter_child_nodes(annotation)))


def is_tensor_function(item: Definition) -> bool:
    """Select functions that take or return tensors, and every ``forward``; not inner ones, nor operators."""
    function, arguments = item.function, item.function.args
    if item.nested or (function.name.startswith("__") and function.name != "__call__"):
        return False
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    hints = [function.returns, *(argument.annotation for argument in every if argument)]
    return (item.owner is not None and function.name == "forward") or any(map(names_tensor, hints))


def shapes(source: Source) -> Iterator[Check]:
    """Every tensor function and every ``forward`` states a shape, in its docstring or in a comment."""
    for item in filter(is_tensor_function, definitions(source.tree)):
        function = item.function
        lines = range(function.lineno, (function.end_lineno or function.lineno) + 1)
        texts = [ast.get_docstring(function) or "", *(source.comments.get(line, "") for line in lines)]
        message = None if any(map(is_shape, texts)) else f"{item.label} states no shape"
        yield Check(function.lineno, message)


def raised(function: Function) -> set[str]:
    """Return the errors that a function's own body raises; the empty name where a helper builds the error."""
    names, caught, stack = set(), set(), list[ast.AST](function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.ExceptHandler):
            caught.add(node.name)
        if isinstance(node, ast.Raise) and node.exc:
            name = name_of(node.exc)
            if not (isinstance(node.exc, ast.Name) and not name[:1].isupper()):
                names.add(name if name.lstrip("_")[:1].isupper() else "")
            elif name not in caught:
                names.add("")
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            stack += ast.iter_child_nodes(node)
    return names - {"NotImplementedError", "AssertionError"}


def raises(source: Source) -> Iterator[Check]:
    """Every public function documents the errors it raises; a constructor may do so in the class."""
    for item in definitions(source.tree):
        name, owner = item.function.name, item.owner
        constructs = name in ("__init__", "__post_init__")
        private = name.startswith("_") and not constructs and name != "__call__"
        if item.nested or private or (owner and owner.name.startswith("_")) or not (errors := raised(item.function)):
            continue
        documents = [item.function, *([owner] if owner and constructs else [])]
        sections = [(ast.get_docstring(node) or "").partition("Raises:")[1:] for node in documents]
        text = "".join(after for colon, after in sections if colon)
        missing = sorted(error for error in errors if not text or not re.search(rf"\b{error}\b", text))
        message = f"{item.label}: 'Raises:' lacks {', '.join(e or 'the error that a helper builds' for e in missing)}"
        yield Check(item.function.lineno, message if missing else None)


def fields(owner: ast.ClassDef) -> int:
    """Count the constructor arguments of a dataclass or named tuple; 0 for other classes."""
    if "dataclass" not in map(name_of, owner.decorator_list) and "NamedTuple" not in map(name_of, owner.bases):
        return 0
    typed = [node for node in owner.body if isinstance(node, ast.AnnAssign)]
    typed = [node for node in typed if name_of(node.annotation) not in ("ClassVar", "KW_ONLY")]
    return sum("init=False" not in (ast.unparse(node.value) if node.value else "") for node in typed)


def states_reason(source: Source, node: ast.ClassDef | Function) -> bool:
    """Return True if a comment ``# arguments: REASON`` stands at the head of a class or constructor."""
    top = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    comments = [source.comments.get(line, "") for line in range(top - 1, node.lineno + 1)]
    return any(re.match(r"# arguments: \w", comment) for comment in comments)


def constructors(source: Source) -> Iterator[Check]:
    """A constructor takes few arguments, or a comment ``# arguments: REASON`` at its head says why not."""
    counts: list[tuple[ast.ClassDef | Function, str, int]] = [
        (node, node.name, fields(node)) for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)
    ]
    for item in definitions(source.tree):
        if item.owner and item.function.name == "__init__":
            arguments = item.function.args
            count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1  # self
            counts.append((item.function, item.label, count))
    for node, label, count in counts:
        many = count > MAX_ARGUMENTS and not states_reason(source, node)
        yield Check(node.lineno, f"{label} takes {count} arguments; at most {MAX_ARGUMENTS}" if many else None)


RULES: dict[str, Callable[[Source], Iterator[Check]]] = {
    "docstring-start": docstrings,
    "docstring-length": lengths,
    "banned-identifier": banned,
    "shapes": shapes,
    "raises": raises,
    "constructor-arguments": constructors,
}


def files(paths: Iterable[Path]) -> list[Path]:
    """List the Python files among files and folders."""
    chosen = (path.rglob("*.py") if path.is_dir() else [path] for path in paths)
    return sorted(file for group in chosen for file in group)


def check(rule: str, sources: Iterable[Source]) -> tuple[list[Offence], Counter[str]]:
    """Apply one rule; return its offences, and by folder how many places were examined."""
    offences, examined = [], Counter[str]()
    for source in sources:
        absolute = source.path.resolve()
        path = absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else source.path
        for place in RULES[rule](source):
            examined[str(path.parent)] += 1
            if place.message:
                offences.append(Offence(str(path), place.line, rule, place.message))
    return offences, examined


def parse(paths: Iterable[Path] = ()) -> list[Source]:
    """Parse the Python files of some paths; of none: of all sources that exist."""
    paths = list(paths) or [ROOT / name for name in SOURCES if (ROOT / name).exists()]
    return [Source.parse(path.read_text(encoding="utf-8"), path) for path in files(paths)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--rule", choices=RULES)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    sources, bad = parse(options.paths), 0
    for rule in [options.rule] if options.rule else RULES:
        offences, examined = check(rule, sources)
        bad += len(offences)
        if options.summary:
            total = examined.total()
            share = 100 * (total - len(offences)) / total if total else 100
            print(f"{rule:<22} {len(offences):>5} of {total} ({share:.0f} % good)")
            for folder, count in sorted(Counter(str(Path(o.path).parent) for o in offences).items()):
                print(f"    {folder:<26} {count:>5} of {examined[folder]}")
        else:
            print(*offences, sep="\n", end="\n" if offences else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
