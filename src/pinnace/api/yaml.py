"""YAML as Kubernetes reads and writes it.

Reading turns YAML into JSON values with the scalar rules of upstream's sigs.k8s.io/yaml: `1e3` is a number, times of
day and dates are strings, `yes` and `on` are booleans (YAML 1.1, as go-yaml has kept it), a key given twice is an
error, and map keys become strings. Nesting and aliases are bounded. Writing sorts keys, as kubectl prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

# Beyond these a document is an attack, not a manifest.
MAX_DEPTH = 100
MAX_NODES = 500_000

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
# go-yaml reads y and n as strings unless a boolean is asked for.
_BOOLEANS = {**dict.fromkeys(_TRUE - {"y", "Y"}, True), **dict.fromkeys(_FALSE - {"n", "N"}, False)}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_STARTS = frozenset("0123456789+-.")
_INFINITE = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


def load(text: bytes | str) -> Any:
    """The one document of a text, None for an empty one. Raises ValueError."""
    documents = list(_documents(text, 2))
    if len(documents) > 1:
        raise ValueError("expected a single document in the stream, but found another document")
    return documents[0] if documents else None


def load_all(text: bytes | str, limit: int = 10_000) -> Iterator[Any]:
    """Every document that is not empty. Raises ValueError."""
    return (document for document in _documents(text, limit) if document is not None)


def dump(value: Any) -> str:
    """One document, as kubectl prints it."""
    return str(
        yaml.dump(value, Dumper=_Style, default_flow_style=False, sort_keys=True, allow_unicode=True, width=2**31 - 1)
    )


def dump_all(values: Iterable[Any]) -> str:
    return "---\n".join(map(dump, values))


def _documents(text: bytes | str, limit: int) -> Iterator[Any]:
    loader = _Loader(text)
    try:
        count = 0
        while loader.check_node():
            count += 1
            if count > limit:
                raise ValueError(f"yaml: more than {limit} documents")
            yield _Builder().value(_composed(loader), 0)
    except yaml.YAMLError as error:
        raise ValueError(f"yaml: {_first_line(error)}") from error
    except RecursionError as error:
        raise ValueError("yaml: exceeded max depth") from error
    finally:
        loader.dispose()


def _composed(loader: Any) -> Any:
    return loader.get_node()


def _first_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


class _Builder:
    """One document's values out of its nodes, counted."""

    def __init__(self) -> None:
        self._nodes = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ValueError("yaml: document contains excessive aliasing")
        if depth > MAX_DEPTH:
            raise ValueError("yaml: exceeded max depth of 100")
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value, node.tag, plain=not node.style)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" and not key_node.style:
                many = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for one in many:
                    found = self.value(one, depth + 1)
                    if not isinstance(found, dict):
                        raise ValueError("yaml: map merge requires map or sequence of maps as the value")
                    merged = {**found, **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"yaml: line {key_node.start_mark.line + 1}: invalid map key")
            key = _key(scalar(key_node.value, key_node.tag, plain=not key_node.style), key_node.value)
            if key in out:
                line = key_node.start_mark.line + 1
                raise ValueError(f'yaml: unmarshal errors:\n  line {line}: key "{key}" already set in map')
            out[key] = self.value(value_node, depth + 1)
        return {**merged, **out} if merged else out


def scalar(text: str, tag: str = "", *, plain: bool = True) -> Any:
    """What a scalar means. Quoted ones, and those tagged `!!str`, are strings."""
    if tag == "tag:yaml.org,2002:binary":
        raise ValueError("yaml: !!binary is not supported")
    if not plain:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _STARTS:
        return text
    if _INTEGER.match(text):
        return _integer(text)
    if _FLOAT.match(text):
        number = float(text)
        if not math.isfinite(number):
            return text
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if text.lower() in _INFINITE:
        raise ValueError(f"json: unsupported value: {text}")
    return text


def _integer(text: str) -> Any:
    digits = text.replace("_", "")
    sign = -1 if digits.startswith("-") else 1
    bare = digits.lstrip("+-")
    try:
        if bare[:2].lower() in ("0x", "0b", "0o"):
            number = sign * int(bare, 0)
        elif len(bare) > 1 and bare.startswith("0"):
            number = sign * int(bare, 8)
        else:
            number = sign * int(bare)
    except ValueError:
        return text
    return number if -(2**63) <= number < 2**64 else float(number)


def _key(key: Any, text: str) -> str:
    """JSON's keys are strings; numbers and booleans are written as JSON writes them."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if key is None:
        return "null"
    return key if isinstance(key, str) else str(key) if isinstance(key, int) else text


class _Style(_Dumper):  # type: ignore[misc, valid-type]  # the C class where there is one
    """Strings that would read as something else are quoted, those of several lines are blocks, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = '"' if _reads_differently(text) else "|" if _fits_block(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _fits_block(text: str) -> bool:
    lines = text.split("\n")
    return len(lines) > 1 and all((not line or line.isprintable()) and line == line.rstrip() for line in lines)


_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:\Z|[Tt ])")


def _reads_differently(text: str) -> bool:
    """Unquoted, some YAML reader would not take it for this string."""
    if text in _TRUE or text in _FALSE or text in _NULLS:
        return True
    if text[0] not in _STARTS:
        return False
    if text.lower() in _INFINITE or _SEXAGESIMAL.match(text) or _DATE.match(text):
        return True
    return not isinstance(scalar(text), str)


_Style.add_representer(str, _represent_text)
