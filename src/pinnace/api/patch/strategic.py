"""Strategic merge patch: a merge patch that knows which lists are keyed, and that takes directives.

Directives: `$patch: replace|delete` in objects and list items, `$deleteFromPrimitiveList/<field>`,
`$setElementOrder/<field>`, `$retainKeys`. Rules: sig-api-machinery, strategic-merge-patch.md; where an order is
to be kept the precedence is: `$setElementOrder`, then the patch, then the live list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pinnace.api.patch import PatchError
from pinnace.api.patch.fields import Held, field, name_of
from pinnace.api.patch.merge_patch import same

DIRECTIVE = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_FROM_LIST = "$deleteFromPrimitiveList/"
SET_ORDER = "$setElementOrder/"

_BAD_RETAIN_KEYS = "invalid patch format of retainKeys"
_BAD_PRIMITIVE_LIST = "invalid patch format of primitive list"
_BAD_ORDER_LIST = "invalid patch format of setElementOrder list"

Json = dict[str, Any]
_NONE: frozenset[str] = frozenset()
_SCALARS = frozenset({str, int, float, bool})


def apply(
    document: Json, patch: Json, of: type[object] | str, *, plain: bool = False, nulls: bool = True
) -> Json:
    """The patched document, of the type given as class or as the table's name; it may share parts with both, which
    stay what they were. Raises PatchError.

    `plain`: it is known that there is no directive in the patch, so that none is looked for; without `nulls` also that
    there is no null, so that what is new is taken as it stands."""
    return merge(document, patch, of if isinstance(of, str) else name_of(of), plain, nulls or not plain)


def merge(old: Json | None, patch: Json, of: str, plain: bool, nulls: bool) -> Json:
    """The same of a type's name; where `plain` is false `nulls` is true."""
    if not plain and DIRECTIVE in patch:
        return _directed(patch)
    new = {**old} if old else {}
    if not plain and RETAIN_KEYS in patch:
        new = _retain(new, patch)
    ordered = _NONE if plain else _ordered_lists(new, patch, of)
    for key, value in patch.items():
        if value.__class__ in _SCALARS and (plain or key[:1] != "$"):
            new[key] = value
        elif not plain and (key in ordered or (key[:1] == "$" and _directs(key))):
            if key.startswith(DELETE_FROM_LIST) and key not in ordered:
                _delete_from_list(new, key.removeprefix(DELETE_FROM_LIST), value)
        elif value is None:
            new.pop(key, None)
        elif key not in new:
            new[key] = _without_directives(value) if nulls else value
        else:
            new[key] = _value(new[key], value, field(of, key), plain, nulls)
    return new


def _directed(patch: Json) -> Json:
    match patch[DIRECTIVE]:
        case "replace":
            return {key: value for key, value in patch.items() if key != DIRECTIVE}
        case "delete":
            return {}
        case other:
            raise PatchError(f"unknown patch type: {other} in map: {patch}")


def _value(old: Any, patch: Any, held: Held, plain: bool, nulls: bool) -> Any:
    match old, patch:
        case dict(), dict() if not held.replaces:
            return merge(old, patch, held.of, plain, nulls)
        case list(), list() if held.merges:
            return _list(old, patch, held, plain, nulls)
        case _:
            return patch


def _retain(old: Json, patch: Json) -> Json:
    """Only the fields that the directive names stay; a patch that sets another one is malformed."""
    kept = patch[RETAIN_KEYS]
    if not isinstance(kept, list):
        raise PatchError(_BAD_RETAIN_KEYS)
    for key, value in patch.items():
        if value is None or key == RETAIN_KEYS or key.startswith((DELETE_FROM_LIST, SET_ORDER)):
            continue
        if key not in kept:
            raise PatchError(_BAD_RETAIN_KEYS)
    return {key: value for key, value in old.items() if key in kept}


def _delete_from_list(new: Json, key: str, gone: Any) -> None:
    match new.get(key), gone:
        case list() as present, list():
            new[key] = [value for value in present if not _among(value, gone)]
        case _, list():
            pass
        case _:
            raise PatchError(_BAD_PRIMITIVE_LIST)


def _ordered_lists(new: Json, patch: Json, of: str) -> set[str]:
    """Merges the lists that a `$setElementOrder` orders, into `new`; gives the fields that are thereby done."""
    done: set[str] = set()
    for directive, order in patch.items():
        if directive[:1] != "$" or not directive.startswith(SET_ORDER):
            continue
        if not isinstance(order, list):
            raise PatchError("expected a []interface {}, but received a " + _go_type(order))
        key = directive.removeprefix(SET_ORDER)
        live, change = new.get(key), patch.get(key)
        for found in (live, change):
            if found is not None and not isinstance(found, list):
                raise PatchError("expected a []interface {}, but received a " + _go_type(found))
        held = field(of, key)
        _check_order(change or [], order, held.merge_key)
        if live is None and change is None:
            continue
        done.add(key)
        if live is None:
            merged = _without_directives(change)
        else:
            gone = patch.get(DELETE_FROM_LIST + key) or []
            if change is None:
                merged = [value for value in live if not _among(value, gone)]
            else:
                merged = _value(live, change, held, False, True)
        new[key] = _in_order(merged, order, live or [], held.merge_key)
    return done


def _list(old: list[Any], patch: list[Any], held: Held, plain: bool, nulls: bool) -> list[Any]:
    if not old and not patch:
        return old
    if not (patch and isinstance(patch[0], dict)) and not any(isinstance(item, dict) for item in (*old, *patch)):
        merged = [value for i, value in enumerate(old + patch) if not _among(value, (old + patch)[:i])]
        return _in_order(merged, patch, old, "")
    key, of = held.merge_key, held.items
    if not key:
        raise PatchError("cannot merge lists without merge key for type " + (of or "interface"))
    live, changes = (old, patch) if plain else _special(old, patch, key)
    brought = _places(changes, key)
    places = _places(live, key) if brought is not None else None
    if brought and places is not None and len(brought) == len(changes) and places.keys().isdisjoint(brought):
        # What is all new comes first.
        return [*(map(_without_directives, changes) if nulls else changes), *live]
    merged = list(live)
    last, steady = -1, True
    for change in changes:
        if places is None:
            at = _find(merged, key, _key_of(change, key))
        else:
            at = places.get(change[key])
        if at is None:
            steady = False
            if places is not None:
                places[change[key]] = len(merged)
            merged.append(_without_directives(change) if nulls else change)
        else:
            steady = steady and at > last
            last = at
            merged[at] = merge(merged[at], change, of, plain, nulls)
    if steady:
        return merged        # what changes where it stands, one after the other, moves nothing
    return _in_order(merged, changes, live, key)


def _special(old: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Json]]:
    """Carries out the items that are directives; gives what is left of both lists."""
    live, changes, replaces = old, [], False
    for item in patch:
        if not isinstance(item, dict):
            raise PatchError("expected a map[string]interface {}, but received a " + _go_type(item))
        match item.get(DIRECTIVE):
            case None:
                changes.append(item)
            case "delete":
                gone = _key_of(item, key)
                live = [kept for kept in live if not same(_key_of(kept, key), gone)]
            case "replace":
                replaces = True
            case "merge":
                raise PatchError("merging lists cannot yet be specified in the patch")
            case other:
                raise PatchError(f"unknown patch type: {other} in map: {item}")
    return ([], changes) if replaces else (live, changes)


def _key_of(item: Any, key: str) -> Any:
    if not isinstance(item, dict):
        raise PatchError("expected a map[string]interface {}, but received a " + _go_type(item))
    if key not in item:
        raise PatchError(f"map: {_go_map(item)} does not contain declared merge key: {key}")
    return item[key]


def _find(items: list[Any], key: str, value: Any) -> int | None:
    if isinstance(value, str):
        return next((i for i, item in enumerate(items) if _key_of(item, key) == value), None)
    return next((i for i, item in enumerate(items) if same(_key_of(item, key), value)), None)


def _among(value: Any, values: list[Any]) -> bool:
    if isinstance(value, str):
        return value in values
    return any(same(value, other) for other in values)


def _without_directives(value: Any) -> Any:
    """A part of a patch that meets nothing to merge with: nulls and directives go."""
    if isinstance(value, dict):
        if DIRECTIVE in value and value[DIRECTIVE] == "delete":
            return {}
        kept = {}
        for key, inner in value.items():
            if inner is None or (key[:1] == "$" and _directs(key)):
                continue
            kept[key] = inner if inner.__class__ in _SCALARS else _without_directives(inner)
        return kept
    if isinstance(value, list):
        return [
            _without_directives(item)
            for item in value
            if not (isinstance(item, dict) and DIRECTIVE in item and _stands_for_none(item))
        ]
    return value


def _stands_for_none(item: Json) -> bool:
    return item[DIRECTIVE] == "delete" or item == {DIRECTIVE: "replace"}


def _directs(key: str) -> bool:
    return key in (DIRECTIVE, RETAIN_KEYS) or key.startswith((DELETE_FROM_LIST, SET_ORDER))


# ----------------------------------------------------------------------------------------------------- order


def _check_order(change: list[Any], order: list[Any], key: str) -> None:
    """What the patch brings must stand in the order list, and in the same sequence."""
    brought = [item for item in change if not (isinstance(item, dict) and DIRECTIVE in item)]
    positions = [_position(item, order, key) for item in brought]
    if brought and order and (None in positions or positions != sorted(p for p in positions if p is not None)):
        raise PatchError(f"The order in patch list:\n{brought}\n doesn't match {SET_ORDER[:-1]} list:\n{order}\n")
    if brought and not order:
        raise PatchError(_BAD_ORDER_LIST)


def _position(item: Any, order: list[Any], key: str) -> int | None:
    if not key:
        return next((i for i, value in enumerate(order) if same(value, item)), None)
    wanted = _key_of(item, key)
    for i, entry in enumerate(order):
        if isinstance(entry, Mapping) and key in entry and same(entry[key], wanted):
            return i
    return None


def _places(items: list[Any], key: str) -> dict[str, int] | None:
    """Where each item of a list is first met, by its key; None unless all are told apart by text, as nearly all are."""
    table: dict[str, int] = {}
    for i, item in enumerate(items):
        value = item.get(key) if item.__class__ is dict else None
        if value.__class__ is not str:
            return None
        table.setdefault(value, i)
    return table


def _positions(items: list[Any], among: list[Any], key: str) -> list[int | None]:
    """What `_position` says of each item."""
    table = _places(among, key) if key else None
    if table is None:
        return [_position(item, among, key) for item in items]
    wanted = [_key_of(item, key) for item in items]
    return [table.get(value) if isinstance(value, str) else None for value in wanted]


def _in_order(merged: list[Any], order: list[Any], live: list[Any], key: str) -> list[Any]:
    """Those that `order` names in its sequence, the rest as they lived, interleaved as the live list was."""
    places = _positions(merged, live, key)
    named: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for i, at in enumerate(_positions(merged, order, key)):
        if at is not None:
            named.append((at, i))
        else:
            place = places[i]
            rest.append((len(live) if place is None else place, i))
    left = [i for _, i in sorted(rest)]
    right = [i for _, i in sorted(named)]
    out: list[int] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = places[left[i]], places[right[j]]
        if a is not None and b is not None and a < b:
            out.append(left[i])
            i += 1
        else:
            out.append(right[j])
            j += 1
    return [merged[at] for at in (*out, *left[i:], *right[j:])]


# ------------------------------------------------------------------------------------- values as Go prints them


def _go_type(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int():
            return "int64"
        case float():
            return "float64"
        case dict():
            return "map[string]interface {}"
        case list():
            return "[]interface {}"
        case _:
            return "<nil>"


def _go_map(value: Any) -> str:
    match value:
        case dict():
            return f"map[{' '.join(f'{k}:{_go_map(value[k])}' for k in sorted(value))}]"
        case list():
            return f"[{' '.join(map(_go_map, value))}]"
        case bool():
            return "true" if value else "false"
        case None:
            return "<nil>"
        case _:
            return str(value)
