"""The part of Go's text/template that kwok's Stages use. Pure.

`Template` reads a text once; what it does not know is refused then. Actions: pipelines, variables, if, with, range,
else, define, template, break, continue, and the functions that the caller gives besides Go's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pinnace.kubelet.simulated.expressions import NotUnderstood

Function = Callable[..., Any]
MOST = 1_000_000             # characters that one template may give
_ACTION = re.compile(r"\{\{(-\s)?\s*(/\*.*?\*/|.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<variable>\$[A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
      | (?P<field>(?:\.[A-Za-z_][A-Za-z0-9_]*)+)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>:=|=|[.|(),])
    )""",
    re.VERBOSE,
)


def truth(value: Any) -> bool:
    """As Go's templates see it: what is empty is false."""
    return bool(value)


def text_of(value: Any) -> str:
    """As Go prints a value."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{text_of(v)}' for k, v in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(text_of(v) for v in value)}]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        elif value is not None:
            raise ValueError(f"error calling index: index out of range: {key}")
    return value


def _printf(form: str, *values: Any) -> str:
    left = iter(values)
    return re.sub(
        r"%[svdq]", lambda m: json.dumps(next(left, "")) if m[0] == "%q" else text_of(next(left, "")), form
    )


# Go's own, and the few of sprig's that Stages use.
FUNCTIONS: Mapping[str, Function] = {
    "and": lambda *values: next((v for v in values if not truth(v)), values[-1]),
    "or": lambda *values: next((v for v in values if truth(v)), values[-1]),
    "not": lambda value: not truth(value),
    "eq": lambda value, *others: any(value == other for other in others),
    "ne": lambda value, other: value != other,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "index": _index, "len": lambda value: len(value or ()), "printf": _printf,
    "print": lambda *values: "".join(text_of(v) for v in values),
    "dict": lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True)), "list": lambda *values: list(values),
    "default": lambda default, value=None: value if truth(value) else default,
    "add": lambda *numbers: sum(int(n) for n in numbers), "add1": lambda n: int(n) + 1,
    "sub": lambda a, b: int(a) - int(b), "int": int, "toString": text_of, "upper": lambda s: str(s).upper(),
    "lower": lambda s: str(s).lower(), "trim": lambda s: str(s).strip(), "quote": lambda s: json.dumps(text_of(s)),
    "hasKey": lambda table, key: key in (table or {}), "join": lambda sep, items: str(sep).join(map(text_of, items)),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Look:
    """A field path of the dot, of a variable, or of a parenthesis."""

    base: Any                    # "" for the dot, a variable's name, or a Pipe
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Each command gets what the one before gave as its last argument."""

    commands: tuple[Any, ...]
    variables: tuple[str, ...] = ()
    declares: bool = True


@dataclass(slots=True)
class Block:
    """if, with, range."""

    kind: str
    pipe: Pipe
    body: list[Any] = field(default_factory=list)
    other: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Include:
    name: str
    pipe: Pipe | None


class _Leave(Exception):
    """break or continue."""

    def __init__(self, word: str) -> None:
        self.word = word


class Template:
    """`render` it with the functions it was read with. Raises NotUnderstood when it is read."""

    def __init__(self, text: str, functions: Sequence[str] = ()) -> None:
        self._defined: dict[str, list[Any]] = {}
        self._names = {*FUNCTIONS, *functions}
        self._parts = self._split(text)
        self._at = 0
        self._root = self._nodes(())[0]

    def render(self, data: Any, functions: Mapping[str, Function]) -> str:
        """Raises ValueError for what a template cannot do with the data."""
        run = _Run({**FUNCTIONS, **functions}, self._defined)
        try:
            run.all(self._root, data, [{"$": data}])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the template failed: {error}") from error
        return "".join(run.out)

    # Reading

    @staticmethod
    def _split(text: str) -> list[tuple[str, str]]:
        """Alternately texts and actions."""
        parts: list[tuple[str, str]] = []
        at, trim = 0, False
        for match in _ACTION.finditer(text):
            piece = text[at : match.start()]
            piece = piece.lstrip() if trim else piece
            parts.append(("text", piece.rstrip() if match[1] else piece))
            if not match[2].startswith("/*"):
                parts.append(("action", match[2]))
            at, trim = match.end(), bool(match[3])
        parts.append(("text", text[at:].lstrip() if trim else text[at:]))
        return parts

    def _nodes(self, ends: tuple[str, ...]) -> tuple[list[Any], str]:
        """The nodes until an action that begins with one of these words, and that action."""
        nodes: list[Any] = []
        while self._at < len(self._parts):
            kind, text = self._parts[self._at]
            self._at += 1
            if kind == "text":
                if text:
                    nodes.append(text)
                continue
            word = text.split(maxsplit=1)[0] if text else ""
            if word in ends:
                return nodes, text
            if word in ("end", "else"):
                raise NotUnderstood(f"template: unexpected {{{{{text}}}}}")
            if (node := self._node(word, text)) is not None:
                nodes.append(node)
        if ends:
            raise NotUnderstood("template: {{end}} is missing")
        return nodes, ""

    def _node(self, word: str, text: str) -> Any:
        rest = text[len(word) :]
        match word:
            case "if" | "with" | "range":
                return self._block(word, rest)
            case "define":
                name = json.loads(rest)
                self._defined[name] = self._nodes(("end",))[0]
                return None
            case "template":
                tokens = _Tokens(rest, self._names)
                name = json.loads(tokens.take("string"))
                return Include(name, None if tokens.done else tokens.pipe(whole=True))
            case "break" | "continue":
                return _Leave(word)
            case "block":
                raise NotUnderstood("template: {{block}} is not understood")
        return _Tokens(text, self._names).pipe(whole=True)

    def _block(self, kind: str, rest: str) -> Block:
        block = Block(kind, _Tokens(rest, self._names).pipe(whole=True))
        block.body, end = self._nodes(("end", "else"))
        if end.startswith("else"):
            more = end[4:].strip()
            if more:                # else if, else with
                word = more.split(maxsplit=1)[0]
                if word not in ("if", "with"):
                    raise NotUnderstood(f"template: {{{{{end}}}}} is not understood")
                block.other = [self._block(word, more[len(word) :])]
            else:
                block.other, _ = self._nodes(("end",))
        return block


class _Tokens:
    """One action, read into a pipe."""

    def __init__(self, text: str, names: set[str]) -> None:
        self._text = text.strip()
        self._names = names
        self._tokens: list[tuple[str, str, int, int]] = []
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise self._refuse(self._text[at:].strip()[:1])
            kind = found.lastgroup or ""
            self._tokens.append((kind, found[kind], found.start(kind), found.end()))
            at = found.end()
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at >= len(self._tokens)

    def _refuse(self, what: str) -> NotUnderstood:
        return NotUnderstood(f"template: {what!r} in {{{{ {self._text} }}}} is not understood")

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at][:2] if at < len(self._tokens) else ("", "the end")

    def take(self, kind: str = "") -> str:
        found, text = self._peek()
        if not found or (kind and found != kind):
            raise self._refuse(text)
        self._at += 1
        return text

    def pipe(self, *, whole: bool = False) -> Pipe:
        variables: list[str] = []
        declares = True
        signs = [self._peek(n)[1] for n in (1, 3)]
        if self._peek()[0] == "variable" and signs[0] == "," and signs[1] in (":=", "="):
            variables = [self.take()]
            self.take()
            variables.append(self.take("variable"))
        elif self._peek()[0] == "variable" and signs[0] in (":=", "="):
            variables = [self.take()]
        if variables:
            declares = self.take() == ":="
        commands = [self._command()]
        while self._peek()[1] == "|":
            self.take()
            commands.append(self._command())
        if whole and not self.done:
            raise self._refuse(self._peek()[1])
        return Pipe(tuple(commands), tuple(variables), declares)

    def _command(self) -> Any:
        kind, text = self._peek()
        if kind == "word" and text not in ("true", "false", "nil"):
            self.take()
            if text not in self._names:
                raise NotUnderstood(f"template: function {text!r} is not understood")
            arguments = []
            while not self.done and self._peek()[1] not in ("|", ")"):
                arguments.append(self._operand())
            return Call(text, tuple(arguments))
        return self._operand()

    def _operand(self) -> Any:
        kind, text = self._peek()
        if not kind:
            raise self._refuse(text)
        self.take()
        match kind:
            case "string":
                return Literal(text[1:-1] if text[0] == "`" else json.loads(text))
            case "number":
                return Literal(float(text) if "." in text else int(text))
            case "field":
                return Look("", tuple(text[1:].split(".")))
            case "variable":
                name, *keys = text.split(".")
                return Look(name, tuple(keys))
            case "word" if text in ("true", "false", "nil"):
                return Literal({"true": True, "false": False, "nil": None}[text])
            case "word" if text in self._names:
                return Call(text, ())
        if text == ".":
            return Look("", ())
        if text != "(":
            raise self._refuse(text)
        inner = self.pipe()
        if self._peek()[1] != ")":
            raise self._refuse(self._peek()[1])
        end = self._tokens[self._at][3]
        self._at += 1
        if self._peek()[0] == "field" and self._tokens[self._at][2] == end:      # ( … ).name
            return Look(inner, tuple(self.take()[1:].split(".")))
        return inner


# ------------------------------------------------------------------------------------------------ the rendering


class _Run:
    def __init__(self, functions: Mapping[str, Function], defined: Mapping[str, list[Any]]) -> None:
        self._functions = functions
        self._defined = defined
        self._size = 0
        self._depth = 0
        self.out: list[str] = []

    def all(self, nodes: Sequence[Any], dot: Any, scopes: list[dict[str, Any]]) -> None:
        scopes = [*scopes, {}]
        for node in nodes:
            self._one(node, dot, scopes)

    def _put(self, text: str) -> None:
        self._size += len(text)
        if self._size > MOST:
            raise ValueError(f"the template gives more than {MOST} characters")
        self.out.append(text)

    def _one(self, node: Any, dot: Any, scopes: list[dict[str, Any]]) -> None:
        match node:
            case str():
                self._put(node)
            case Pipe():
                value = self._pipe(node, dot, scopes)
                if not node.variables:
                    self._put(text_of(value))
            case Block():
                self._block(node, dot, scopes)
            case Include(name, pipe):
                if name not in self._defined:
                    raise ValueError(f"template {name!r} is not defined")
                self._depth += 1
                if self._depth > 100:
                    raise ValueError("templates include one another without end")
                data = self._pipe(pipe, dot, scopes) if pipe is not None else None
                self.all(self._defined[name], data, [{"$": data}])
                self._depth -= 1
            case _Leave():
                raise node

    def _block(self, block: Block, dot: Any, scopes: list[dict[str, Any]]) -> None:
        inner = [*scopes, {}]
        if block.kind == "range":
            self._range(block, dot, inner)
            return
        value = self._pipe(block.pipe, dot, inner)
        if truth(value):
            self.all(block.body, value if block.kind == "with" else dot, inner)
        else:
            self.all(block.other, dot, inner)

    def _range(self, block: Block, dot: Any, scopes: list[dict[str, Any]]) -> None:
        values = self._pipe(Pipe(block.pipe.commands), dot, scopes)
        pairs = sorted(values.items()) if isinstance(values, dict) else list(enumerate(values or ()))
        if not pairs:
            self.all(block.other, dot, scopes)
        names = block.pipe.variables
        for key, value in pairs:
            mine = dict(zip(names, (value,) if len(names) == 1 else (key, value), strict=False))
            try:
                self.all(block.body, value, [*scopes, mine])
            except _Leave as leave:
                if leave.word == "break":
                    break

    def _pipe(self, pipe: Pipe, dot: Any, scopes: list[dict[str, Any]]) -> Any:
        value: Any = None
        for n, command in enumerate(pipe.commands):
            if n == 0:
                value = self._value(command, dot, scopes)
            elif isinstance(command, Call):
                value = self._call(command, dot, scopes, value)
            else:
                raise ValueError("can't give argument to non-function")
        for name in pipe.variables:
            self._set(name, value, scopes, declares=pipe.declares)
        return value

    @staticmethod
    def _set(name: str, value: Any, scopes: list[dict[str, Any]], *, declares: bool) -> None:
        if declares:
            scopes[-1][name] = value
            return
        for scope in reversed(scopes):
            if name in scope:
                scope[name] = value
                return
        raise ValueError(f"undefined variable {name}")

    def _value(self, node: Any, dot: Any, scopes: list[dict[str, Any]]) -> Any:
        match node:
            case Literal(value):
                return value
            case Call():
                return self._call(node, dot, scopes)
            case Pipe():
                return self._pipe(node, dot, scopes)
            case Look(base, keys):
                return self._look(base, keys, dot, scopes)
        raise ValueError(f"{node!r} is no value")

    def _look(self, base: Any, keys: tuple[str, ...], dot: Any, scopes: list[dict[str, Any]]) -> Any:
        if base == "":
            value = dot
        elif isinstance(base, str):
            found = next((scope for scope in reversed(scopes) if base in scope), None)
            if found is None:
                raise ValueError(f"undefined variable {base}")
            value = found[base]
        else:
            value = self._value(base, dot, scopes)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def _call(self, call: Call, dot: Any, scopes: list[dict[str, Any]], *last: Any) -> Any:
        arguments = [self._value(argument, dot, scopes) for argument in call.arguments]
        return self._functions[call.name](*arguments, *last)
