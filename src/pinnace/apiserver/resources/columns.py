"""The pieces that printed columns are made of: ages, labels, selectors, names of containers.

Each kind's file puts its `Column`s together from these; the server turns them into a metav1.Table. The texts
are upstream's (pkg/printers/internalversion and apimachinery's duration).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.api.labels import format_selector as format_selector
from pinnace.apiserver.resource import Column

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"


def human_duration(seconds: float) -> str:
    return times.human_duration(timedelta(seconds=seconds))


def since(timestamp: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was; `<unknown>` if there is none."""
    if not timestamp:
        return UNKNOWN
    return human_duration((now - datetime.fromisoformat(timestamp)).total_seconds())


def age(thing: Any, now: datetime) -> str:
    return since(thing.metadata.creationTimestamp if thing.metadata is not None else None, now)


def name(thing: Any, _: datetime) -> str:
    return (thing.metadata.name if thing.metadata is not None else None) or ""


NAME: Column[Any] = Column("Name", name, format="name", description="Name of the object, unique in its scope.")
AGE: Column[Any] = Column("Age", age, description="Time since the object was created.")


def column(
    title: str,
    value: Callable[[Any], Any],
    description: str,
    *,
    type: str = "string",
    wide: bool = False,
) -> Column[Any]:
    """A column whose cell needs no clock."""
    return Column(title, lambda thing, _: value(thing), type=type, description=description, priority=int(wide))


def format_labels(labels: Mapping[str, str] | None) -> str:
    """`app=web,tier=front`, sorted; `<none>` when empty."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) if labels else NONE


def containers_of(template: core.PodTemplateSpec | None) -> Iterable[core.Container]:
    return (template.spec.containers or ()) if template is not None and template.spec is not None else ()


def template_columns(
    template: Callable[[Any], core.PodTemplateSpec | None], selector: Callable[[Any], str] | None
) -> tuple[Column[Any], ...]:
    """Containers, images and selector, as `-o wide` shows them for every workload."""
    columns = [
        column(
            "Containers",
            lambda thing: ",".join(c.name for c in containers_of(template(thing))),
            "Names of the template's containers.",
            wide=True,
        ),
        column(
            "Images",
            lambda thing: ",".join(c.image or "" for c in containers_of(template(thing))),
            "Images of the template's containers.",
            wide=True,
        ),
    ]
    if selector is not None:
        columns.append(column("Selector", selector, "Labels that select the pods.", wide=True))
    return tuple(columns)


def balancer_addresses(ingress: Iterable[Any] | None, *, wide: bool = False) -> str:
    """Addresses of a load balancer's status, sorted; cut after 16 characters unless wide."""
    found = sorted({item.ip or item.hostname for item in ingress or () if item.ip or item.hostname})
    text = ",".join(found)
    return text if wide or len(text) <= 16 else text[:13] + "..."
