"""The pieces that printed columns are made of: ages, labels, selectors, names of containers.

Each kind's file puts its `Column`s together from these; the server turns them into a metav1.Table. The texts
are upstream's (pkg/printers/internalversion and apimachinery's duration).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resource import Column

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"


def human_duration(seconds: float) -> str:
    """Two significant units at most: `45s`, `5m30s`, `3h`, `2d4h`, `1y30d`."""
    whole = int(seconds)
    if whole < 0:
        return "0s" if whole >= -1 else "<invalid>"
    if whole < 120:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{days}d"
    if hours < 24 * 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


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


def format_selector(selector: meta.LabelSelector | None) -> str:
    """A label selector in the grammar of `-l`."""
    if selector is None:
        return NONE
    terms = {f"{key}=": f"{key}={value}" for key, value in (selector.matchLabels or {}).items()}
    for expression in selector.matchExpressions or ():
        terms[f"{expression.key}{expression.operator}"] = _expression(expression)
    return ",".join(terms[key] for key in sorted(terms)) or NONE


def _expression(expression: meta.LabelSelectorRequirement) -> str:
    values = ",".join(sorted(expression.values or ()))
    match expression.operator:
        case "In":
            return f"{expression.key} in ({values})"
        case "NotIn":
            return f"{expression.key} notin ({values})"
        case "Exists":
            return expression.key
        case _:
            return f"!{expression.key}"


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
