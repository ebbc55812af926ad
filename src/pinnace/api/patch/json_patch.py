"""JSON Patch (RFC 6902): a list of operations, all of which apply or none does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pinnace.api.patch import PatchError, TestFailed
from pinnace.api.patch.merge_patch import same

# What `copy` may add to a document in one patch; without a bound, copies of copies grow exponentially.
COPY_LIMIT = 3 * 1024 * 1024

_INDEX = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_MISSING = object()

Container = dict[str, Any] | list[Any]


def apply(document: Any, operations: Sequence[Mapping[str, Any]], *, copy_limit: int = COPY_LIMIT) -> Any:
    """The patched document. Raises PatchError."""
    patching = _Patching(document, copy_limit)
    for operation in operations:
        if not isinstance(operation, Mapping):
            raise PatchError("json: cannot unmarshal a JSON patch operation that is no object")
        patching.apply(operation)
    return patching.document


class _Patching:
    """One document on its way. Containers are copied the first time they are written to."""

    def __init__(self, document: Any, copy_limit: int) -> None:
        self.document = document
        self._own: set[int] = set()
        self._kept: list[Container] = []  # so that no id in _own is used again
        self._budget = self._limit = copy_limit

    def apply(self, operation: Mapping[str, Any]) -> None:
        kind = operation.get("op")
        path = _path(operation, "path")
        match kind:
            case "add":
                self._add(path, _value(operation), "add")
            case "remove":
                self._remove(path, "remove")
            case "replace":
                self._replace(path, _value(operation))
            case "test":
                self._test(path, _value(operation) if "value" in operation else None)
            case "move":
                source = _path(operation, "from")
                if path != source and path.startswith(source + "/"):
                    raise PatchError(f"error in move for path: '{path}': a value cannot move into itself")
                value = self._get(source, "move")
                self._remove(source, "move")
                self._add(path, value, "move")
            case "copy":
                value = self._get(_path(operation, "from"), "copy")
                self._pay(value)
                self._add(path, value, "copy")
            case _:
                raise PatchError(f"Unexpected kind: {kind if isinstance(kind, str) else 'unknown'}")

    def _pay(self, value: Any) -> None:
        self._budget -= len(msgspec.json.encode(value))
        if self._budget < 0:
            raise PatchError(
                "Unable to complete the copy, the accumulated size increase of copy is "
                f"{self._limit - self._budget}, exceeding the limit {self._limit}"
            )

    def _walk(self, parts: list[str]) -> Any:
        """The value at a path, or _MISSING."""
        value = self.document
        for part in parts:
            value = _child(value, part)
            if value is _MISSING:
                return _MISSING
        return value

    def _parent(self, parts: list[str]) -> Container | None:
        """The container that holds the path's last part, ready to be written to."""
        if not isinstance(self._walk(parts[:-1]), dict | list):
            return None
        self.document = here = self._writable(self.document)
        for part in parts[:-1]:
            key = part if isinstance(here, dict) else _index(part, len(here))
            below = self._writable(here[key])  # type: ignore[index]  # the walk found it
            here[key] = below  # type: ignore[index]
            here = below
        return here

    def _writable(self, container: Container) -> Container:
        if id(container) in self._own:
            return container
        copied: Container = dict(container) if isinstance(container, dict) else list(container)
        self._own.add(id(copied))
        self._kept.append(copied)
        return copied

    def _add(self, path: str, value: Any, verb: str) -> None:
        parts = _parts(path)
        self._disown(value)
        if not parts:
            self.document = value
            return
        parent = self._parent(parts)
        if parent is None:
            raise PatchError(f'{verb} operation does not apply: doc is missing path: "{path}": missing value')
        key = parts[-1]
        if isinstance(parent, dict):
            parent[key] = value
            return
        position = len(parent) if key == "-" else _index(key, len(parent) + 1, f"error in {verb} for path: '{path}'")
        parent.insert(position, value)

    def _disown(self, value: Any) -> None:
        """A value put at a second place must not be written to through the first."""
        if isinstance(value, dict | list):
            self._own.discard(id(value))
            for inner in value.values() if isinstance(value, dict) else value:
                self._disown(inner)

    def _remove(self, path: str, verb: str) -> None:
        parts = _parts(path)
        parent = self._parent(parts) if parts else None
        if parent is None:
            raise PatchError(f'{verb} operation does not apply: doc is missing path: "{path}": missing value')
        key = parts[-1]
        if isinstance(parent, dict):
            if key not in parent:
                raise PatchError(
                    f"error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
                )
            del parent[key]
        else:
            del parent[_index(key, len(parent), f"error in remove for path: '{path}'")]

    def _replace(self, path: str, value: Any) -> None:
        parts = _parts(path)
        if not parts:
            self.document = value
            return
        if not isinstance(self._walk(parts[:-1]), dict | list):
            raise PatchError(f"replace operation does not apply: doc is missing path: {path}: missing value")
        parent = self._parent(parts)
        key = parts[-1]
        if isinstance(parent, dict):
            if key not in parent:
                raise PatchError(f"replace operation does not apply: doc is missing key: {path}: missing value")
            parent[key] = value
        elif parent is not None:
            parent[_index(key, len(parent), f"error in replace for path: '{path}'")] = value

    def _test(self, path: str, expected: Any) -> None:
        found = self._walk(_parts(path))
        if found is _MISSING:
            if expected is None:
                return  # upstream: a test for null holds where nothing is
            raise TestFailed(f"testing value {path} failed: test failed")
        if not same(found, expected):
            raise TestFailed(f"testing value {path} failed: test failed")

    def _get(self, path: str, verb: str) -> Any:
        found = self._walk(_parts(path))
        if found is _MISSING:
            raise PatchError(f"{verb} operation does not apply: doc is missing from path: {path}: missing value")
        return found


def _path(operation: Mapping[str, Any], member: str) -> str:
    path = operation.get(member)
    if not isinstance(path, str):
        raise PatchError(f"{operation.get('op')} operation failed to decode path: missing value")
    return path


def _value(operation: Mapping[str, Any]) -> Any:
    return operation.get("value")


def _parts(path: str) -> list[str]:
    if not path:
        return []
    if not path.startswith("/"):
        raise PatchError(f'doc is missing path: "{path}": missing value')
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _child(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part, _MISSING)
    if isinstance(value, list) and _INDEX.match(part) and -len(value) <= int(part) < len(value):
        return value[int(part)]
    return _MISSING


def _index(part: str, size: int, where: str = "") -> int:
    """A place in a list of `size`; negative ones count from the end, as upstream's library takes them."""
    lead = f"{where}: " if where else ""
    if not _INDEX.match(part):
        raise PatchError(f'{lead}strconv.Atoi: parsing "{part}": invalid syntax')
    position = int(part)
    if not -size <= position < size:
        raise PatchError(f"{lead}Unable to access invalid index: {part}: invalid index referenced")
    return position + size if position < 0 else position
