"""Making strategic merge patches: what `kubectl apply` and `edit` send.

`three_way` compares what was applied last, what is wanted now and what lives: what is wanted is set where the live
object differs, what was applied and is no longer wanted goes, what others added stays. `two_way` is the special case
where the live object is what was applied. Pure, on dicts; of the type given as class or as the table's name.
"""

from __future__ import annotations

from typing import Any

from pinnace.api.patch import PatchError
from pinnace.api.patch.fields import Held, field, name_of
from pinnace.api.patch.merge_patch import same
from pinnace.api.patch.strategic import DELETE_FROM_LIST, DIRECTIVE, RETAIN_KEYS, SET_ORDER

Json = dict[str, Any]


def two_way(old: Json, new: Json, of: type[object] | str) -> Json:
    """The patch that makes `new` of `old`, empty if there is nothing to do. Raises PatchError."""
    return three_way(old, new, old, of)


def three_way(applied: Json, wanted: Json, live: Json, of: type[object] | str) -> Json:
    """The patch for the live object, empty if there is nothing to do. Raises PatchError for items without a key."""
    return _object(applied, wanted, live, Held(of if isinstance(of, str) else name_of(of)))


def _object(applied: Json, wanted: Json, live: Json, held: Held) -> Json:
    patch: Json = {}
    for name, value in wanted.items():
        if value is None:
            if live.get(name) is not None:
                patch[name] = None
        elif live.get(name) is None:
            patch[name] = value
        else:
            patch |= _field(name, applied.get(name), value, live[name], field(held.of, name))
    # What was applied and is no longer wanted goes, whether or not somebody took it away before.
    patch |= {name: None for name in applied if name not in wanted}
    if held.retains_keys and patch:
        patch[RETAIN_KEYS] = sorted(name for name, value in wanted.items() if value is not None)
    return patch


def _field(name: str, applied: Any, wanted: Any, live: Any, held: Held) -> Json:
    if isinstance(wanted, dict) and isinstance(live, dict) and not held.replaces:
        below = _object(applied if isinstance(applied, dict) else {}, wanted, live, held)
        return {name: below} if below else {}
    if isinstance(wanted, list) and isinstance(live, list) and held.merges:
        before = applied if isinstance(applied, list) else []
        if held.merge_key:
            return _keyed(name, before, wanted, live, held)
        return _words(name, before, wanted, live)
    return {} if same(wanted, live) else {name: wanted}


def _keyed(name: str, applied: list[Any], wanted: list[Any], live: list[Any], held: Held) -> Json:
    key = held.merge_key
    of = held._replace(of=held.items, items="", merge_key="")
    changes: list[Json] = []
    for item in wanted:
        there = _find(live, key, _key_of(item, key))
        if there is None:
            changes.append(item)
            continue
        below = _object(_find(applied, key, item[key]) or {}, item, there, of)
        if below:
            changes.append({**below, key: item[key]})
    order = [{key: item[key]} for item in wanted]
    for item in applied:
        value = _key_of(item, key)
        if _find(wanted, key, value) is None:
            changes.append({DIRECTIVE: "delete", key: value})
    if not changes and _in_sequence([_key_of(item, key) for item in live], [item[key] for item in wanted]):
        return {}
    patch: Json = {SET_ORDER + name: order} if order else {}
    return patch | ({name: changes} if changes else {})


def _words(name: str, applied: list[Any], wanted: list[Any], live: list[Any]) -> Json:
    added = [value for value in wanted if not any(same(value, other) for other in live)]
    gone = [value for value in applied if not any(same(value, other) for other in wanted)]
    if not added and not gone and _in_sequence(live, wanted):
        return {}
    patch: Json = {SET_ORDER + name: wanted} if wanted else {}
    if added:
        patch[name] = added
    if gone:
        patch[DELETE_FROM_LIST + name] = gone
    return patch


def _in_sequence(live: list[Any], wanted: list[Any]) -> bool:
    """Those wanted live in the same order."""
    present = [value for value in live if any(same(value, other) for other in wanted)]
    return same(present, wanted)


def _key_of(item: Any, key: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise PatchError(f"map: {item} does not contain declared merge key: {key}")
    return item[key]


def _find(items: list[Any], key: str, value: Any) -> Json | None:
    return next((item for item in items if same(_key_of(item, key), value)), None)
