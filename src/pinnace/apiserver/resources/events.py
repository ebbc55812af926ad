"""Events: one kind under two names. core/v1 is what is stored, events.k8s.io/v1 another view of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.events import v1 as events
from pinnace.api.fields import FieldError, invalid, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import NAME, column, since


def validate(event: core.Event) -> Iterator[FieldError]:
    namespace = event.involvedObject.namespace or ""
    if event.metadata.namespace != namespace and not (
        not namespace and event.metadata.namespace in ("default", "kube-system")
    ):
        yield invalid("involvedObject.namespace", namespace, "does not match event.namespace")
    if event.eventTime is not None and len(event.message or "") > 1024:
        yield invalid("message", "", "can have at most 1024 characters")
    if event.reportingComponent and event.eventTime is not None:
        yield from rules.qualified_name("reportingController", event.reportingComponent)


def validate_new_style(event: events.Event) -> Iterator[FieldError]:
    """What events.k8s.io/v1 asks of an event beyond core/v1."""
    if not event.eventTime:
        yield required("eventTime")
    if event.type not in ("Normal", "Warning"):
        yield invalid("type", event.type or "", f"has invalid value: {event.type or ''}")
    if not event.reportingController:
        yield required("reportingController")
    else:
        yield from rules.qualified_name("reportingController", event.reportingController)
    for word in ("reportingInstance", "action", "reason"):
        value = getattr(event, word) or ""
        if not value:
            yield required(word)
        elif len(value) > 128:
            yield invalid(word, "", "can have at most 128 characters")
    for word in ("deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"):
        if getattr(event, word):
            yield invalid(word[len("deprecated") :][0].lower() + word[len("deprecated") + 1 :], "", "needs to be unset")


def create_new_style(event: events.Event) -> Iterator[FieldError]:
    yield from validate(to_core(event))
    yield from validate_new_style(event)


def from_core(event: core.Event) -> events.Event:
    """events.k8s.io/v1 of what is stored."""
    series = event.series
    return events.Event(
        metadata=event.metadata,
        action=event.action,
        deprecatedCount=event.count,
        deprecatedFirstTimestamp=event.firstTimestamp,
        deprecatedLastTimestamp=event.lastTimestamp,
        deprecatedSource=event.source,
        eventTime=event.eventTime or None,
        note=event.message,
        reason=event.reason,
        regarding=event.involvedObject,
        related=event.related,
        reportingController=event.reportingComponent,
        reportingInstance=event.reportingInstance,
        series=events.EventSeries(count=series.count or 0, lastObservedTime=series.lastObservedTime)
        if series is not None
        else None,
        type=event.type,
    )


def to_core(event: events.Event) -> core.Event:
    series = event.series
    return core.Event(
        metadata=event.metadata,
        action=event.action,
        count=event.deprecatedCount,
        eventTime=event.eventTime or None,
        firstTimestamp=event.deprecatedFirstTimestamp,
        involvedObject=event.regarding,
        lastTimestamp=event.deprecatedLastTimestamp,
        message=event.note,
        reason=event.reason,
        related=event.related,
        reportingComponent=event.reportingController,
        reportingInstance=event.reportingInstance,
        series=core.EventSeries(count=series.count, lastObservedTime=series.lastObservedTime)
        if series is not None
        else None,
        source=event.deprecatedSource,
        type=event.type,
    )


def last_seen(event: core.Event) -> str:
    if event.series is not None and event.series.lastObservedTime:
        return event.series.lastObservedTime
    return event.lastTimestamp or event.eventTime or event.firstTimestamp or ""


def _count(event: core.Event) -> int:
    if event.series is not None:
        return event.series.count or 0
    return event.count or (1 if event.eventTime else 0)


def _source(event: core.Event) -> str:
    component = event.source.component or event.reportingComponent or ""
    host = event.source.host or event.reportingInstance or ""
    return f"{component}, {host}" if host else component


def _thing(event: core.Event) -> str:
    target = event.involvedObject
    kind = (target.kind or "").lower()
    return f"{kind}/{target.name}" if target.name else kind


def _last(event: core.Event, now: datetime) -> str:
    return since(last_seen(event), now)


def _first(event: core.Event, now: datetime) -> str:
    return since(event.firstTimestamp or event.eventTime, now)


COLUMNS: tuple[Column[Any], ...] = (
    Column("Last Seen", _last, description="When it happened last."),
    column("Type", lambda e: e.type or "", "Normal or Warning."),
    column("Reason", lambda e: e.reason or "", "Why, in one word."),
    column("Object", _thing, "What it is about."),
    column("Subobject", lambda e: e.involvedObject.fieldPath or "", "Which part of it.", wide=True),
    column("Source", _source, "Who reports it.", wide=True),
    column("Message", lambda e: (e.message or "").strip(), "What happened."),
    Column("First Seen", _first, description="When it happened first.", priority=1),
    column("Count", lambda e: str(_count(e)), "How often.", wide=True),
    Column(NAME.name, NAME.cell, format="name", description=NAME.description, priority=1),
)
_FIELDS = {
    "involvedObject.kind": lambda e: e.involvedObject.kind or "",
    "involvedObject.namespace": lambda e: e.involvedObject.namespace or "",
    "involvedObject.name": lambda e: e.involvedObject.name or "",
    "involvedObject.uid": lambda e: e.involvedObject.uid or "",
    "involvedObject.apiVersion": lambda e: e.involvedObject.apiVersion or "",
    "involvedObject.resourceVersion": lambda e: e.involvedObject.resourceVersion or "",
    "involvedObject.fieldPath": lambda e: e.involvedObject.fieldPath or "",
    "reason": lambda e: e.reason or "",
    "reportingComponent": lambda e: e.reportingComponent or "",
    "source": lambda e: e.source.component or e.reportingComponent or "",
    "type": lambda e: e.type or "",
}


def _view(cell: Any) -> Any:
    """A function of the stored event, for the other view of it."""
    return lambda event, *rest: cell(to_core(event), *rest)


EVENT: Resource[core.Event] = Resource(
    kind=kind_of(core.Event),
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    columns=COLUMNS,
    fields=_FIELDS,
    generation=False,
    allow_create_on_update=True,
)
EVENTS_EVENT: Resource[events.Event] = Resource(
    kind=kind_of(events.Event),
    validate_create=create_new_style,
    validate_update=lambda new, _: validate(to_core(new)),
    columns=tuple(
        Column(c.name, _view(c.cell), c.type, c.format, c.description, c.priority) for c in COLUMNS
    ),
    fields={
        name.replace("involvedObject.", "regarding.").replace("reportingComponent", "reportingController"): _view(f)
        for name, f in _FIELDS.items()
    },
    generation=False,
    allow_create_on_update=True,
    stored_as=kind_of(core.Event),
    from_stored=from_core,
    to_stored=to_core,
)
RESOURCES = (EVENT, EVENTS_EVENT)
