"""Validation of metadata, for every kind alike: the server calls `validate_object_meta` on create and
`validate_object_meta_update` on update, before the kind's own validation. Upstream: apimachinery's objectmeta.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from pinnace.api import codec, names
from pinnace.api.fields import FieldError, forbidden, invalid, required, too_long
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resources import rules

ANNOTATIONS_LIMIT = 256 * 1024
# Finalizers without a slash that upstream itself uses.
_PLAIN_FINALIZERS = frozenset(("kubernetes", "orphan", "foregroundDeletion"))
_BANNED_OWNERS = {("v1", "Event"): "/v1, Kind=Event is disallowed from being an owner"}

_IMMUTABLE = (
    "name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip
_immutable = attrgetter(*_IMMUTABLE)
_NOTHING_KNOWN = meta.ObjectMeta()

NameRule = Callable[[str], Sequence[str]]


def validate_object_meta(
    meta_: meta.ObjectMeta, namespaced: bool, name_rule: NameRule | None = None, path: str = "metadata",
    *, known: meta.ObjectMeta = _NOTHING_KNOWN,
) -> list[FieldError]:
    """`name_rule` gives messages about a bad name; None stands for a DNS subdomain. `known`: was found good before."""
    rule = name_rule or rules.subdomain_messages
    found: list[FieldError] = []
    if meta_.generateName and meta_.generateName != known.generateName:
        # A generated name gets a suffix: what is there may end in a dash.
        prefix = meta_.generateName
        messages = rule(names.without_trailing_dash(prefix))
        if messages:
            found += [invalid(f"{path}.generateName", prefix, message) for message in messages]
    if not meta_.name:
        found.append(required(f"{path}.name", "name or generateName is required"))
    elif meta_.name != known.name:
        messages = rule(meta_.name)
        if messages:
            found += [invalid(f"{path}.name", meta_.name, message) for message in messages]
    if namespaced:
        if not meta_.namespace:
            found.append(required(f"{path}.namespace"))
        elif not rules.is_label(meta_.namespace):
            found += rules.dns_label(f"{path}.namespace", meta_.namespace)
    elif meta_.namespace:
        found.append(forbidden(f"{path}.namespace", "not allowed on this type"))
    if meta_.generation is not None and meta_.generation < 0:
        found += rules.non_negative(f"{path}.generation", meta_.generation)
    if meta_.labels and meta_.labels != known.labels:
        found += validate_labels(meta_.labels, f"{path}.labels")
    if meta_.annotations and meta_.annotations != known.annotations:
        found += validate_annotations(meta_.annotations, f"{path}.annotations")
    if meta_.ownerReferences and meta_.ownerReferences != known.ownerReferences:
        found += _owners(meta_.ownerReferences, f"{path}.ownerReferences")
    if meta_.finalizers and meta_.finalizers != known.finalizers:
        found += validate_finalizers(meta_.finalizers, f"{path}.finalizers")
    return found


def validate_object_meta_update(
    new: meta.ObjectMeta, old: meta.ObjectMeta, *, path: str = "metadata"
) -> Iterator[FieldError]:
    """What may not change; labels and the like are checked by `validate_object_meta`, too."""
    if old.deletionTimestamp is not None:
        known = set(old.finalizers or ())
        added = [finalizer for finalizer in new.finalizers or () if finalizer not in known]
        if added:
            quoted = ", ".join(f'"{finalizer}"' for finalizer in sorted(added))
            yield forbidden(
                f"{path}.finalizers",
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{quoted}}}",
            )
    after, before = _immutable(new), _immutable(old)
    if after != before:
        for name, value, was in zip(_IMMUTABLE, after, before, strict=True):
            yield from rules.immutable(f"{path}.{name}", value, was)
    if (new.generation or 0) < (old.generation or 0):
        yield invalid(f"{path}.generation", new.generation or 0, "must not be decremented")
    if new.resourceVersion in (None, ""):
        yield invalid(f"{path}.resourceVersion", new.resourceVersion or "", "must be specified for an update")


def validate_labels(labels: Mapping[str, str] | None, path: str) -> Iterator[FieldError]:
    for key, value in (labels or {}).items():
        if not rules.is_qualified(key):
            yield from rules.qualified_name(path, key)
        if not rules.is_label_value(value):
            yield from rules.label_value(path, value)


def validate_annotations(annotations: Mapping[str, str] | None, path: str) -> Iterator[FieldError]:
    if not annotations:
        return
    size = 0
    for key, value in annotations.items():
        # Annotation keys may be upper case in their prefix: upstream lowers them before it looks.
        if not rules.is_qualified(key) and not rules.is_qualified(key.lower()):
            yield from (invalid(path, key, message) for message in rules.qualified_messages(key.lower()))
        size += len(key) + len(value.encode())
    if size > ANNOTATIONS_LIMIT:
        yield too_long(path, "", ANNOTATIONS_LIMIT)


def validate_finalizers(finalizers: list[str], path: str) -> Iterator[FieldError]:
    for i, finalizer in enumerate(finalizers):
        good = rules.is_qualified(finalizer)
        if not good:
            yield from rules.qualified_name(path, finalizer)
        if good and "/" not in finalizer and finalizer not in _PLAIN_FINALIZERS:
            yield invalid(
                f"{path}[{i}]", finalizer, "name is neither a standard finalizer name nor is it fully qualified"
            )
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        yield invalid(path, finalizers, "finalizer orphan and foregroundDeletion cannot be both set")


def _owners(owners: list[meta.OwnerReference], path: str) -> Iterator[FieldError]:
    controller: str | None = None
    for owner in owners:
        if owner.apiVersion[-1:] in ("", "/"):
            yield invalid(f"{path}.apiVersion", owner.apiVersion, "version must not be empty")
        if not owner.kind:
            yield invalid(f"{path}.kind", owner.kind, "must not be empty")
        if not owner.name:
            yield invalid(f"{path}.name", owner.name, "must not be empty")
        if not owner.uid:
            yield invalid(f"{path}.uid", owner.uid, "must not be empty")
        if (owner.apiVersion, owner.kind) in _BANNED_OWNERS:
            yield invalid(path, owner, _BANNED_OWNERS[owner.apiVersion, owner.kind])
        if owner.controller:
            if controller is not None:
                yield invalid(
                    path,
                    codec.to_dict(owners),
                    "Only one reference can have Controller set to true. Found \"true\" in references for "
                    f"{controller} and {owner.name}",
                )
            else:
                controller = owner.name
