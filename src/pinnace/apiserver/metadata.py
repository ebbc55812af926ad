"""The rules of ObjectMeta, which hold for every kind: what the server owns, what a name may be, what never changes.

Pure functions; texts are upstream's (apimachinery, api/validation and registry/rest).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pinnace.api import fields
from pinnace.api.errors import BadRequest
from pinnace.api.fields import FieldError
from pinnace.api.kinds import Kind
from pinnace.api.meta import v1 as meta

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_IMMUTABLE = "field is immutable"
_ANNOTATION_BYTES = 256 * 1024
_NAME_BYTES = 253
# A generated name is its base and five characters; upstream cuts the base at 63 in all.
GENERATED_BASE = 58
_STANDARD_FINALIZERS = frozenset({"kubernetes", "foregroundDeletion", "orphan"})


def dns_label(name: str) -> Iterator[str]:
    """What is wrong with it as an RFC 1123 label."""
    if len(name) > 63:
        yield "must be no more than 63 bytes"
    if not _LABEL.fullmatch(name):
        yield _LABEL_TEXT


def dns_subdomain(name: str) -> Iterator[str]:
    """What is wrong with it as an RFC 1123 subdomain."""
    if len(name) > _NAME_BYTES:
        yield "must be no more than 253 bytes"
    if not _SUBDOMAIN.fullmatch(name):
        yield _SUBDOMAIN_TEXT


def path_segment(name: str) -> Iterator[str]:
    """What keeps it from being a part of a URL path: the least that any name must be."""
    if name in (".", ".."):
        yield f"may not be '{name}'"
        return
    for sign in "/%":
        if sign in name:
            yield f"may not contain '{sign}'"


def qualified_name(name: str) -> Iterator[str]:
    """What is wrong with it as the key of a label or annotation."""
    prefix, slash, last = name.rpartition("/")
    if "/" in prefix:
        yield "a qualified name " + _QUALIFIED_TEXT.removeprefix("name part ") + (
            " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif prefix:
        yield from (f"prefix part {text}" for text in dns_subdomain(prefix))
    if not last:
        yield "name part must be non-empty"
    elif len(last) > 63:
        yield "name part must be no more than 63 bytes"
    if not _QUALIFIED.fullmatch(last):
        yield _QUALIFIED_TEXT


def label_value(value: str) -> Iterator[str]:
    if len(value) > 63:
        yield "must be no more than 63 bytes"
    if not _VALUE.fullmatch(value):
        yield _VALUE_TEXT


def take_namespace(obj: Any, kind: Kind, namespace: str) -> None:
    """The object gets the request's namespace. Raises BadRequest if it names another."""
    metadata = obj.metadata
    if not kind.namespaced:
        metadata.namespace = None
    elif not metadata.namespace:
        metadata.namespace = namespace
    elif metadata.namespace != namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def check_name(obj: Any, name: str) -> None:
    """Raises BadRequest if an update's object is not the one that the path names."""
    given = obj.metadata.name or ""
    if given != name:
        raise BadRequest(f"the name of the object ({given}) does not match the name on the URL ({name})")


def prepare_new(metadata: meta.ObjectMeta, uid: str, now: str, *, generation: bool) -> None:
    """Fill in what the server owns on a new object, whatever the client sent."""
    metadata.uid = uid
    metadata.creationTimestamp = now
    metadata.generation = 1 if generation else None
    metadata.deletionTimestamp = metadata.deletionGracePeriodSeconds = None
    metadata.resourceVersion = metadata.selfLink = None


def prepare_changed(new: meta.ObjectMeta, old: meta.ObjectMeta) -> None:
    """Keep what an update cannot change; what it leaves out of these is no attempt to clear it."""
    new.uid = new.uid or old.uid
    new.creationTimestamp = old.creationTimestamp
    new.generation = old.generation
    new.generateName = new.generateName or old.generateName
    new.deletionTimestamp = old.deletionTimestamp
    new.deletionGracePeriodSeconds = old.deletionGracePeriodSeconds
    new.selfLink = None


def same_content(new: Any, old: Any) -> bool:
    """Nothing differs that metadata.generation counts: all but metadata and status."""
    return all(
        getattr(new, name) == getattr(old, name)
        for name in type(new).__struct_fields__
        if name not in ("kind", "apiVersion", "metadata", "status")
    )


def validate(
    metadata: meta.ObjectMeta, kind: Kind, name_rule: Callable[[str], Iterable[str]] | None
) -> Iterator[FieldError]:
    """Everything about the metadata of a new object."""
    rule = name_rule or dns_subdomain
    if metadata.generateName:
        # The suffix follows, so a trailing dash is fine.
        for text in rule(metadata.generateName.rstrip("-") + "x" if metadata.generateName.endswith("-") else metadata.generateName):
            yield fields.invalid("metadata.generateName", metadata.generateName, text)
    name = metadata.name or ""
    if not name:
        yield fields.required("metadata.name", "name or generateName is required")
    else:
        for text in rule(name):
            yield fields.invalid("metadata.name", name, text)
    namespace = metadata.namespace or ""
    if kind.namespaced:
        if not namespace:
            yield fields.required("metadata.namespace")
        else:
            for text in dns_label(namespace):
                yield fields.invalid("metadata.namespace", namespace, text)
    elif namespace:
        yield fields.forbidden("metadata.namespace", "not allowed on this type")
    yield from _validate_maps(metadata)
    yield from _validate_owners(metadata.ownerReferences or ())
    yield from _validate_finalizers(metadata.finalizers or ())


def validate_change(new: meta.ObjectMeta, old: meta.ObjectMeta) -> Iterator[FieldError]:
    """Everything about the metadata of a changed object."""
    yield from _validate_maps(new)
    if new.ownerReferences != old.ownerReferences:
        yield from _validate_owners(new.ownerReferences or ())
    if new.finalizers != old.finalizers:
        yield from _validate_finalizers(new.finalizers or ())
        added = sorted(set(new.finalizers or ()) - set(old.finalizers or ()))
        if old.deletionTimestamp and added:
            listed = ", ".join(f'"{name}"' for name in added)
            yield fields.forbidden(
                "metadata.finalizers",
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}",
            )
    for name in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if (getattr(new, name) or None) != (getattr(old, name) or None):
            yield fields.invalid(f"metadata.{name}", getattr(new, name), _IMMUTABLE)


def _validate_maps(metadata: meta.ObjectMeta) -> Iterator[FieldError]:
    for key, value in (metadata.labels or {}).items():
        for text in qualified_name(key):
            yield fields.invalid("metadata.labels", key, text)
        for text in label_value(value):
            yield fields.invalid("metadata.labels", value, text)
    size = 0
    for key, value in (metadata.annotations or {}).items():
        for text in qualified_name(key.lower()):
            yield fields.invalid("metadata.annotations", key, text)
        size += len(key.encode()) + len(value.encode())
    if size > _ANNOTATION_BYTES:
        yield fields.too_long("metadata.annotations", "", _ANNOTATION_BYTES)


def _validate_owners(owners: Iterable[meta.OwnerReference]) -> Iterator[FieldError]:
    controller = ""
    for position, owner in enumerate(owners):
        path = fields.index("metadata.ownerReferences", position)
        if not owner.apiVersion or owner.apiVersion.count("/") > 1 or owner.apiVersion.endswith("/"):
            yield fields.invalid(f"{path}.apiVersion", owner.apiVersion, "version must not be empty")
        for field in ("kind", "name", "uid"):
            if not getattr(owner, field):
                yield fields.invalid(f"{path}.{field}", "", "must not be empty")
        if owner.controller:
            if controller:
                yield fields.invalid(
                    "metadata.ownerReferences",
                    None,
                    f'Only one reference can have Controller set to true. Found "true" in references for '
                    f"{controller} and {owner.kind}/{owner.name}",
                )
            controller = controller or f"{owner.kind}/{owner.name}"


def _validate_finalizers(finalizers: Iterable[str]) -> Iterator[FieldError]:
    for name in finalizers:
        for text in qualified_name(name):
            yield fields.invalid("metadata.finalizers", name, text)
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            yield fields.invalid("metadata.finalizers", name, "name is neither a standard finalizer name nor is it fully qualified")
    if {"orphan", "foregroundDeletion"} <= set(finalizers):
        yield fields.invalid(
            "metadata.finalizers", list(finalizers), "finalizer orphan and foregroundDeletion cannot be both set"
        )
