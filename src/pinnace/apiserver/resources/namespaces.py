"""Namespaces: a name, a phase, and finalizers in the spec that the namespace controller works off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, invalid
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Context, Resource, Subresource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.strategy import status_part

NAME_LABEL = "kubernetes.io/metadata.name"
FINALIZER = "kubernetes"
VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


def default(namespace: core.Namespace) -> None:
    if namespace.metadata.name:
        labels = namespace.metadata.labels
        if labels is None:
            namespace.metadata.labels = {NAME_LABEL: namespace.metadata.name}
        else:
            labels[NAME_LABEL] = namespace.metadata.name
    if not namespace.status.phase:
        namespace.status.phase = "Active"


def prepare_create(namespace: core.Namespace, _: Context) -> None:
    namespace.status = core.NamespaceStatus(phase="Active")
    finalizers = list(namespace.spec.finalizers or ())
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    namespace.spec.finalizers = finalizers
    default(namespace)          # a generated name is known only now


def prepare_update(new: core.Namespace, old: core.Namespace, _: Context) -> None:
    new.spec.finalizers = old.spec.finalizers
    new.status = old.status


def prepare_finalize(new: core.Namespace, old: core.Namespace, _: Context) -> None:
    """Only the finalizers are written on this path."""
    new.status = old.status


def prepare_delete(namespace: core.Namespace, _: Context) -> None:
    """From now on nothing new is made in it, and the namespace controller empties it."""
    namespace.status.phase = "Terminating"


def validate(namespace: core.Namespace) -> Iterator[FieldError]:
    for finalizer in namespace.spec.finalizers or ():
        yield from rules.qualified_name("spec.finalizers", finalizer)
        if "/" not in finalizer and finalizer != FINALIZER:
            yield invalid(
                "spec.finalizers",
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            )


def validate_finalize(new: core.Namespace, _: core.Namespace) -> Iterator[FieldError]:
    yield from validate(new)


def validate_status(new: core.Namespace, _: core.Namespace) -> Iterator[FieldError]:
    phase = new.status.phase
    if new.metadata.deletionTimestamp is None:
        if phase != "Active":
            yield invalid("status.Phase", phase, "may only be 'Active' if `deletionTimestamp` is empty")
    elif phase != "Terminating":
        yield invalid("status.Phase", phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Status", lambda n: n.status.phase or "", "Active, or Terminating while it is emptied."),
    AGE,
)
NAMESPACE: Resource[core.Namespace] = Resource(
    kind=kind_of(core.Namespace),
    verbs=VERBS,
    default=default,
    prepare_create=prepare_create,
    prepare_update=prepare_update,
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    validate_name=rules.label_messages,
    columns=COLUMNS,
    fields={"status.phase": lambda n: n.status.phase or "", "name": lambda n: n.metadata.name or ""},
    subresources=(
        Subresource(
            "finalize", verbs=("update",), prepare=prepare_finalize, validate=validate_finalize
        ),
        status_part(validate_status),
    ),
    generation=False,
    prepare_delete=prepare_delete,
    held=lambda n: bool(n.spec.finalizers),
    returns_deleted=True,
)
RESOURCES = (NAMESPACE,)
