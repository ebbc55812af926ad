"""The part of jq's paths that kwok's Stages use: `.status.conditions.[] | select( .type == "Ready" ) | .status`. Pure.

`query` reads an expression once into a function from an object to the values found; what it does not know is refused
when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Query = Callable[[Any], list[Any]]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<word>[A-Za-z_]+)
      | (?P<sign>==|!=|[.|\[\]()?])
    )""",
    re.VERBOSE,
)


class NotUnderstood(ValueError):
    """Something in a Stage that is beyond the part which is supported; the message says what."""


def query(text: str) -> Query:
    """Raises NotUnderstood."""
    return _Reader(text).whole()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        rest = text.rstrip()
        while at < len(rest):
            found = _TOKEN.match(rest, at)
            if found is None:
                raise self._refuse(rest[at:].strip()[:1])
            kind = found.lastgroup or ""
            self._tokens.append((kind, found[kind]))
            at = found.end()
        self._at = 0

    def whole(self) -> Query:
        out = self._pipe()
        if self._at < len(self._tokens):
            raise self._refuse(self._tokens[self._at][1])
        return out

    def _refuse(self, what: str) -> NotUnderstood:
        return NotUnderstood(f"expression {self._text!r}: {what!r} is not understood")

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "the end")

    def _take(self, wanted: str = "") -> tuple[str, str]:
        token = self._peek()
        if not token[0] or (wanted and token[1] != wanted):
            raise self._refuse(token[1])
        self._at += 1
        return token

    def _pipe(self) -> Query:
        steps = [self._step()]
        while self._peek()[1] == "|":
            self._take()
            steps.append(self._step())

        def run(value: Any) -> list[Any]:
            values = [value]
            for step in steps:
                values = [found for one in values for found in step(one)]
            return values

        return run

    def _step(self) -> Query:
        kind, word = self._peek()
        if kind == "word":
            self._take()
            if word != "select":
                raise self._refuse(word)
            self._take("(")
            condition = self._condition()
            self._take(")")
            return lambda value: [value] if condition(value) else []
        return self._path()

    def _condition(self) -> Callable[[Any], bool]:
        left = self._path()
        sign = self._peek()[1]
        if sign not in ("==", "!="):
            return lambda value: any(v not in (None, False) for v in left(value))
        self._take()
        right = self._literal()
        if sign == "==":
            return lambda value: any(v == right for v in left(value) or [None])
        return lambda value: any(v != right for v in left(value) or [None])

    def _literal(self) -> Any:
        kind, text = self._take()
        if kind in ("string", "number") or text in ("true", "false", "null"):
            return json.loads(text)
        raise self._refuse(text)

    def _path(self) -> Query:
        kind, text = self._peek()
        if kind != "field" and text not in (".", "["):
            raise self._refuse(text)
        parts: list[Any] = []        # a key, a number, or None for all of a list
        while True:
            kind, text = self._peek()
            if kind == "field":
                self._take()
                parts.append(text[1:])
            elif text == ".":
                self._take()
                if self._peek()[0] == "string":
                    parts.append(json.loads(self._take()[1]))
            elif text == "[":
                self._take()
                parts.append(None if self._peek()[1] == "]" else self._literal())
                self._take("]")
            elif text == "?":
                self._take()         # what is not there gives nothing anyhow
            else:
                break

        def run(value: Any) -> list[Any]:
            values = [value]
            for part in parts:
                values = [found for one in values for found in _inside(one, part)]
            return [v for v in values if v is not None]

        return run


def _inside(value: Any, part: Any) -> list[Any]:
    """What is not there, or cannot be looked into, gives nothing."""
    if part is None:
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if isinstance(part, str):
        return [value.get(part)] if isinstance(value, dict) else []
    if isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value):
        return [value[part]]
    return []
