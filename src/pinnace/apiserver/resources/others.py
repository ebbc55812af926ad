"""Small kinds: pod templates, revisions, runtime classes, component statuses, and bindings sent on their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, required
from pinnace.api.kinds import kind_of
from pinnace.api.node import v1 as node
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    NONE,
    column,
    containers_of,
    format_labels,
)
from pinnace.apiserver.resources.metadata import validate_labels
from pinnace.apiserver.resources.pods.binding import create_binding
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec
from pinnace.apiserver.resources.podspec.scheduling import validate_tolerations
from pinnace.apiserver.resources.podspec.spec import validate_pod_template
from pinnace.apiserver.resources.strategy import CREATE_ONLY


def default_template(template: core.PodTemplate) -> None:
    default_pod_spec(template.template.spec)


def validate_template(template: core.PodTemplate) -> Iterator[FieldError]:
    yield from validate_pod_template(template.template, "template")


def validate_revision(revision: apps.ControllerRevision) -> Iterator[FieldError]:
    if revision.data is None:
        yield required("data", "data is mandatory")
    yield from rules.non_negative("revision", revision.revision)


def update_revision(
    new: apps.ControllerRevision, old: apps.ControllerRevision
) -> Iterator[FieldError]:
    yield from rules.non_negative("revision", new.revision)
    yield from rules.immutable("data", new.data, old.data)


def _controller(revision: apps.ControllerRevision) -> str:
    for owner in revision.metadata.ownerReferences or ():
        if owner.controller:
            group = owner.apiVersion.rpartition("/")[0]
            kind = owner.kind.lower()
            return f"{kind}.{group}/{owner.name}" if group else f"{kind}/{owner.name}"
    return NONE


def validate_runtime(runtime: node.RuntimeClass) -> Iterator[FieldError]:
    yield from rules.dns_label("handler", runtime.handler)
    if runtime.scheduling is not None:
        yield from validate_labels(runtime.scheduling.nodeSelector, "scheduling.nodeSelector")
        yield from validate_tolerations(runtime.scheduling.tolerations or (), "scheduling.tolerations")


def update_runtime(new: node.RuntimeClass, old: node.RuntimeClass) -> Iterator[FieldError]:
    yield from validate_runtime(new)
    yield from rules.immutable("handler", new.handler, old.handler)


def _healthy(status: core.ComponentStatus) -> core.ComponentCondition:
    for condition in status.conditions or ():
        if condition.type == "Healthy":
            return condition
    return core.ComponentCondition(status="Unknown")


def _health(status: core.ComponentStatus) -> str:
    return {"True": "Healthy", "False": "Unhealthy"}.get(_healthy(status).status, "Unknown")


TEMPLATE_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Containers", lambda t: ",".join(c.name for c in containers_of(t.template)), "Its containers."),
    column("Images", lambda t: ",".join(c.image or "" for c in containers_of(t.template)), "Their images."),
    column("Pod Labels", lambda t: format_labels(t.template.metadata.labels), "Labels of the pods."),
)
POD_TEMPLATE: Resource[core.PodTemplate] = Resource(
    kind=kind_of(core.PodTemplate),
    default=default_template,
    validate_create=validate_template,
    validate_update=lambda new, _: validate_template(new),
    columns=TEMPLATE_COLUMNS,
    returns_deleted=True,
)
CONTROLLER_REVISION: Resource[apps.ControllerRevision] = Resource(
    kind=kind_of(apps.ControllerRevision),
    validate_create=validate_revision,
    validate_update=update_revision,
    columns=(
        NAME,
        column("Controller", _controller, "Whose state it holds."),
        column("Revision", lambda r: r.revision, "Which one.", type="integer"),
        AGE,
    ),
    generation=False,
)
RUNTIME_CLASS: Resource[node.RuntimeClass] = Resource(
    kind=kind_of(node.RuntimeClass),
    validate_create=validate_runtime,
    validate_update=update_runtime,
    columns=(NAME, column("Handler", lambda r: r.handler, "What the runtime calls it."), AGE),
    generation=False,
    allow_unconditional_update=False,
)
COMPONENT_STATUS: Resource[core.ComponentStatus] = Resource(
    kind=kind_of(core.ComponentStatus),
    verbs=("get", "list"),
    columns=(
        NAME,
        column("Status", _health, "Whether it works."),
        column("Message", lambda s: _healthy(s).message or "", "What it says."),
        column("Error", lambda s: _healthy(s).error or "", "What is wrong."),
    ),
    warnings=lambda *_: ("v1 ComponentStatus is deprecated in v1.19+",),
    generation=False,
)
BINDING: Resource[core.Binding] = Resource(
    kind=kind_of(core.Binding), verbs=CREATE_ONLY, answer=create_binding, generation=False
)
RESOURCES = (POD_TEMPLATE, CONTROLLER_REVISION, RUNTIME_CLASS, COMPONENT_STATUS, BINDING)
