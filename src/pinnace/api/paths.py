"""JSONPath as kubectl takes it: `{.items[*].metadata.name}`, templates with text between, filters, range and end.

A template is parsed once into steps, and evaluated on decoded JSON. Grammar and texts: kubectl's reference
(jsonpath) and client-go, util/jsonpath. Errors are ValueErrors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_RESULTS = 1_000_000
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Child:
    name: str


@dataclass(frozen=True, slots=True)
class Wildcard:
    pass


@dataclass(frozen=True, slots=True)
class Recursive:
    pass


@dataclass(frozen=True, slots=True)
class Slice:
    start: int | None
    stop: int | None
    step: int | None
    single: bool


@dataclass(frozen=True, slots=True)
class Union:
    members: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True, slots=True)
class Filter:
    left: Operand
    operator: str
    right: Operand | None


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Path:
    """A path to values; `rooted` ones start at the whole document, whatever a range stands at."""

    steps: tuple[Step, ...]
    rooted: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    over: Path
    body: tuple[Node, ...]


Step = Child | Wildcard | Recursive | Slice | Union | Filter
Operand = Literal | Path
Node = Text | Literal | Path | Range

_WORD = re.compile(r"(?:\\.|[^\s.\[\]{}(),'\"=!<>&|])+")
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_SLICE = re.compile(r"\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*\Z")
_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. `missing_ok`: a name that is nowhere gives nothing instead of an error."""

    nodes: tuple[Node, ...]
    missing_ok: bool = True

    def values(self, document: Any) -> list[Any]:
        """Everything that the template's paths find; text between is left out."""
        return [value for kind, value in self._run(self.nodes, document, document) if kind != "text"]

    def render(self, document: Any) -> str:
        """The text that kubectl prints: the values of one path are parted by blanks."""
        return "".join(
            value if kind == "text" else shown(value) if kind == "first" else " " + shown(value)
            for kind, value in self._run(self.nodes, document, document)
        )

    def _run(self, nodes: tuple[Node, ...], here: Any, root: Any) -> Iterator[tuple[str, Any]]:
        for node in nodes:
            match node:
                case Text(text):
                    yield "text", text
                case Literal(value):
                    yield "first", value
                case Path():
                    for i, value in enumerate(follow(node, here, root, missing_ok=self.missing_ok)):
                        yield ("next" if i else "first"), value
                case Range(over, body):
                    for value in follow(over, here, root, missing_ok=self.missing_ok):
                        yield from self._run(body, value, root)


def parse(template: str, *, missing_ok: bool = True) -> Template:
    """Raises ValueError."""
    return Template(_Parser(template).template(), missing_ok)


def relaxed(expression: str) -> str:
    """`.metadata.name`, `metadata.name` and `{.metadata.name}` are one and the same to custom columns and sorting."""
    bare = expression.strip().removeprefix("{").removesuffix("}").strip()
    return "{" + (bare if bare.startswith((".", "[", "$", "@")) else f".{bare}") + "}"


def find(expression: str, document: Any) -> list[Any]:
    """The values at one path. Raises ValueError."""
    return parse(relaxed(expression)).values(document)


def shown(value: Any) -> str:
    """A value as kubectl prints it: text bare, the rest as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ------------------------------------------------------------------------------------------------- evaluation


def follow(path: Path, here: Any, root: Any, *, missing_ok: bool = True) -> list[Any]:
    values = [root if path.rooted else here]
    for step in path.steps:
        found: list[Any] = []
        for value in values:
            found.extend(_step(step, value, root, missing_ok))
            if len(found) > MAX_RESULTS:
                raise ValueError("jsonpath: too many results")
        values = found
    return values


def _step(step: Step, value: Any, root: Any, missing_ok: bool) -> list[Any]:
    match step:
        case Child(name):
            if isinstance(value, dict):
                if name in value:
                    return [value[name]]
                if not missing_ok:
                    raise ValueError(f"{name} is not found")
            return []
        case Wildcard():
            return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
        case Recursive():
            return list(_below(value, 0))
        case Slice():
            return _sliced(step, value)
        case Union(members):
            return [found for steps in members for found in follow(Path(steps), value, root, missing_ok=missing_ok)]
        case Filter():
            items = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
            return [item for item in items if _holds(step, item, root)]


def _below(value: Any, depth: int) -> Iterator[Any]:
    if depth > MAX_DEPTH:
        raise ValueError("jsonpath: nested too deeply")
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(inner, dict | list):
            yield from _below(inner, depth + 1)


def _sliced(step: Slice, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not array or slice")
    if step.single:
        at = step.start or 0
        if not -len(value) <= at < len(value):
            raise ValueError(f"array index out of bounds: index {at}, length {len(value)}")
        return [value[at]]
    if step.step is not None and step.step <= 0:
        raise ValueError("step must be > 0")
    return value[step.start : step.stop : step.step]


def _holds(step: Filter, item: Any, root: Any) -> bool:
    left = _operand(step.left, item, root)
    if step.operator == "exists":
        return bool(left)
    right = _operand(step.right, item, root) if step.right is not None else []
    if not left or not right:
        return False
    a, b = left[0], right[0]
    if step.operator == "==":
        return _equal(a, b)
    if step.operator == "!=":
        return not _equal(a, b)
    numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (a, b))
    if not numbers and not (isinstance(a, str) and isinstance(b, str)):
        raise ValueError("incompatible types for comparison")
    return bool({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[step.operator])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def _operand(operand: Operand, item: Any, root: Any) -> list[Any]:
    return [operand.value] if isinstance(operand, Literal) else follow(operand, item, root)


# ----------------------------------------------------------------------------------------------------- grammar


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def template(self) -> tuple[Node, ...]:
        nodes, ended = self._nodes(0)
        if ended:
            raise ValueError("not in range, nothing to end")
        return nodes

    def _nodes(self, depth: int) -> tuple[tuple[Node, ...], bool]:
        """Up to the end of the text, or of the range that we are in."""
        if depth > MAX_DEPTH:
            raise ValueError("jsonpath: nested too deeply")
        nodes: list[Node] = []
        while self._at < len(self._text):
            brace = self._text.find("{", self._at)
            end = len(self._text) if brace < 0 else brace
            if end > self._at:
                nodes.append(Text(self._text[self._at : end]))
            if brace < 0:
                self._at = end
                break
            self._at = brace + 1
            action = self._blank()
            if self._keyword("range"):
                over = self._path()
                self._close()
                body, ended = self._nodes(depth + 1)
                if not ended:
                    raise ValueError("unclosed range, expected end")
                nodes.append(Range(over, body))
            elif self._keyword("end"):
                self._close()
                return tuple(nodes), True
            else:
                self._at = action
                nodes += self._action()
        return tuple(nodes), False

    def _action(self) -> list[Node]:
        nodes: list[Node] = []
        while True:
            self._blank()
            if self._peek() in ("'", '"'):
                nodes.append(Text(self._quoted()))
            elif self._peek() == "}":
                self._at += 1
                return nodes
            elif not self._peek():
                raise ValueError("unclosed action")
            elif (number := _NUMBER.match(self._text, self._at)) and self._peek() != ".":
                self._at = number.end()
                nodes.append(Literal(_number(number[0])))
            else:
                before = self._at
                nodes.append(self._path())
                if self._at == before:
                    raise ValueError(f"unrecognized character in action: U+{ord(self._peek()):04X} '{self._peek()}'")

    def _close(self) -> None:
        self._blank()
        if self._peek() != "}":
            raise ValueError("unclosed action")
        self._at += 1

    def _blank(self) -> int:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _keyword(self, word: str) -> bool:
        match = re.compile(rf"{word}(?=[\s}}])").match(self._text, self._at)
        if match:
            self._at = match.end()
        return match is not None

    def _path(self) -> Path:
        self._blank()
        rooted = False
        if self._peek() in ("$", "@"):
            rooted = self._peek() == "$"
            self._at += 1
        steps: list[Step] = []
        first = True
        while True:
            if self._text.startswith("..", self._at):
                self._at += 2
                steps.append(Recursive())
                if self._peek() not in ("[", ""):
                    steps.append(self._name())
            elif self._peek() == ".":
                self._at += 1
                if self._peek() not in ("[", "}", " ", ")", "", "="):
                    steps.append(self._name())
            elif self._peek() == "[":
                steps.append(self._bracket())
            elif first and not rooted and _WORD.match(self._text, self._at):
                steps.append(self._name())
            else:
                return Path(tuple(steps), rooted)
            first = False

    def _name(self) -> Step:
        if self._peek() == "*":
            self._at += 1
            return Wildcard()
        match = _WORD.match(self._text, self._at)
        if match is None:
            raise ValueError(f"unexpected character in path: {self._peek()!r}")
        self._at = match.end()
        return Child(re.sub(r"\\(.)", r"\1", match[0]))

    def _quoted(self) -> str:
        quote = self._peek()
        match = re.compile(rf"{quote}((?:\\.|[^{quote}\\])*){quote}", re.DOTALL).match(self._text, self._at)
        if match is None:
            raise ValueError("unterminated quoted string")
        self._at = match.end()
        escapes = {"n": "\n", "t": "\t", "r": "\r"}
        return re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), match[1], flags=re.DOTALL)

    def _bracket(self) -> Step:
        self._at += 1
        self._blank()
        if self._text.startswith("?(", self._at):
            self._at += 2
            return self._filter()
        members: list[tuple[Step, ...]] = []
        while True:
            members.append(self._member())
            self._blank()
            mark = self._peek()
            self._at += 1
            if mark == "]":
                return members[0][0] if len(members) == 1 and len(members[0]) == 1 else Union(tuple(members))
            if mark != ",":
                raise ValueError("unterminated array")

    def _member(self) -> tuple[Step, ...]:
        self._blank()
        if self._peek() in ("'", '"'):
            quote = self._peek()
            quoted = re.compile(f"{quote}([^{quote}]*){quote}").match(self._text, self._at)
            if quoted is None:
                raise ValueError("unterminated quoted string")
            self._at = quoted.end()
            return _Parser(f".{quoted[1]}")._path().steps  # upstream reads what is quoted as a path, too
        match = re.compile(r"[^\],]*").match(self._text, self._at)
        text = match[0].strip() if match else ""
        self._at += len(match[0]) if match else 0
        if text == "*":
            return (Wildcard(),)
        found = _SLICE.match(text)
        if not text or found is None or (found[3] and not found[2]) or (found[5] and not found[4]):
            raise ValueError(f"invalid array index {text}")
        start, stop, step = (int(part) if part else None for part in (found[1], found[3], found[5]))
        return (Slice(start, stop, step, single=found[2] is None),)

    def _filter(self) -> Filter:
        left = self._operand()
        match = _OPERATOR.match(self._text, self._at)
        right: Operand | None = None
        if match:
            self._at = match.end()
            right = self._operand()
        self._blank()
        if not self._text.startswith(")]", self._at):
            raise ValueError("unterminated filter")
        self._at += 2
        return Filter(left, match[1] if match else "exists", right)

    def _operand(self) -> Operand:
        self._blank()
        if self._peek() in ("'", '"'):
            return Literal(self._quoted())
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return Literal(_number(number[0]))
        for word, value in (("true", True), ("false", False)):
            if re.compile(rf"{word}(?=[\s)=!<>])").match(self._text, self._at):
                self._at += len(word)
                return Literal(value)
        before = self._at
        path = self._path()
        if self._at == before:
            raise ValueError("empty filter")
        return path


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
