"""Flow schemas and priority levels: objects that say how requests share the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.flowcontrol import v1 as flowcontrol
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, NONE, column
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part


def default_schema(schema: flowcontrol.FlowSchema) -> None:
    if not schema.spec.matchingPrecedence:
        schema.spec.matchingPrecedence = 1000


def validate_schema(schema: flowcontrol.FlowSchema) -> Iterator[FieldError]:
    spec = schema.spec
    precedence = spec.matchingPrecedence or 0
    if precedence <= 0:
        yield invalid("spec.matchingPrecedence", precedence, "must be a positive value")
    if precedence > 10000:
        yield invalid("spec.matchingPrecedence", precedence, "must not be greater than 10000")
    if precedence == 1 and schema.metadata.name != "exempt":
        yield invalid(
            "spec.matchingPrecedence", precedence, "only the schema named 'exempt' may have matchingPrecedence 1"
        )
    method = spec.distinguisherMethod
    if method is not None and method.type not in ("ByNamespace", "ByUser"):
        yield not_supported("spec.distinguisherMethod", method.type, ("ByNamespace", "ByUser"))
    if not spec.priorityLevelConfiguration.name:
        yield required(
            "spec.priorityLevelConfiguration.name", "must reference a priority level"
        )
    else:
        yield from rules.dns_subdomain("spec.priorityLevelConfiguration.name", spec.priorityLevelConfiguration.name)
    for i, rule in enumerate(spec.rules or ()):
        path = f"spec.rules[{i}]"
        if not rule.subjects:
            yield required(f"{path}.subjects", "subjects must contain at least one value")
        if not rule.resourceRules and not rule.nonResourceRules:
            yield required(path, "at least one of resourceRules and nonResourceRules has to be non-empty")
        for j, subject in enumerate(rule.subjects):
            if subject.kind not in ("Group", "ServiceAccount", "User"):
                yield not_supported(f"{path}.subjects[{j}].kind", subject.kind, ("Group", "ServiceAccount", "User"))


def default_level(level: flowcontrol.PriorityLevelConfiguration) -> None:
    exempt, limited = level.spec.exempt, level.spec.limited
    if level.spec.type == "Exempt" and exempt is None:
        exempt = level.spec.exempt = flowcontrol.ExemptPriorityLevelConfiguration()
    if exempt is not None:
        if exempt.nominalConcurrencyShares is None:
            exempt.nominalConcurrencyShares = 0
        if exempt.lendablePercent is None:
            exempt.lendablePercent = 0
    if limited is not None:
        if limited.nominalConcurrencyShares is None:
            limited.nominalConcurrencyShares = 30
        if limited.lendablePercent is None:
            limited.lendablePercent = 0
        queuing = limited.limitResponse.queuing
        if queuing is not None:
            queuing.queues = queuing.queues or 64
            queuing.handSize = queuing.handSize or 8
            queuing.queueLengthLimit = queuing.queueLengthLimit or 50


def validate_level(level: flowcontrol.PriorityLevelConfiguration) -> Iterator[FieldError]:
    spec = level.spec
    if spec.type == "Exempt":
        if spec.limited is not None:
            yield forbidden("spec.limited", "must be nil if the type is not Limited")
    elif spec.type == "Limited":
        if spec.exempt is not None:
            yield forbidden("spec.exempt", "must be nil if the type is Limited")
        if spec.limited is None:
            yield required("spec.limited", "must not be empty when type is Limited")
        else:
            yield from _limited(spec.limited, "spec.limited")
    else:
        yield not_supported("spec.type", spec.type, ("Exempt", "Limited"))


def _limited(limited: flowcontrol.LimitedPriorityLevelConfiguration, path: str) -> Iterator[FieldError]:
    if (limited.nominalConcurrencyShares or 0) < 0:
        yield invalid(
            f"{path}.nominalConcurrencyShares", limited.nominalConcurrencyShares, "must be a non-negative integer"
        )
    if not 0 <= (limited.lendablePercent or 0) <= 100:
        yield invalid(f"{path}.lendablePercent", limited.lendablePercent, "must be between 0 and 100, inclusive")
    response = limited.limitResponse
    if response.type == "Reject":
        if response.queuing is not None:
            yield forbidden(
                f"{path}.limitResponse.queuing", "must be nil if limited.limitResponse.type is not Limited"
            )
    elif response.type == "Queue":
        if response.queuing is None:
            yield required(
                f"{path}.limitResponse.queuing", "must not be empty if limited.limitResponse.type is Limited"
            )
    else:
        yield not_supported(f"{path}.limitResponse.type", response.type, ("Queue", "Reject"))


def _method(schema: flowcontrol.FlowSchema) -> str:
    method = schema.spec.distinguisherMethod
    return method.type if method is not None else NONE


def _dangling(schema: flowcontrol.FlowSchema) -> str:
    return next((c.status or "?" for c in schema.status.conditions or () if c.type == "Dangling"), "?")


def _shares(level: flowcontrol.PriorityLevelConfiguration) -> Any:
    limited = level.spec.limited
    return limited.nominalConcurrencyShares or 0 if limited is not None else NONE


def _queuing(word: str) -> Any:
    def cell(level: flowcontrol.PriorityLevelConfiguration) -> Any:
        limited = level.spec.limited
        queuing = limited.limitResponse.queuing if limited is not None else None
        return getattr(queuing, word) if queuing is not None else NONE

    return cell


SCHEMA_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("PriorityLevel", lambda s: s.spec.priorityLevelConfiguration.name, "Where its requests queue."),
    column("MatchingPrecedence", lambda s: s.spec.matchingPrecedence or 0, "Lower is asked first.", type="integer"),
    column("DistinguisherMethod", _method, "What makes a flow."),
    AGE,
    column("MissingPL", _dangling, "Whether its level is missing."),
)
LEVEL_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Type", lambda p: p.spec.type, "Exempt or Limited."),
    column("NominalConcurrencyShares", _shares, "Its share of the server."),
    column("Queues", _queuing("queues"), "Number of queues."),
    column("HandSize", _queuing("handSize"), "Queues a flow may use."),
    column("QueueLengthLimit", _queuing("queueLengthLimit"), "Requests that wait in one."),
    AGE,
)
FLOW_SCHEMA: Resource[flowcontrol.FlowSchema] = Resource(
    kind=kind_of(flowcontrol.FlowSchema),
    default=default_schema,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_schema,
    validate_update=lambda new, _: validate_schema(new),
    columns=SCHEMA_COLUMNS,
    subresources=(status_part(),),
    allow_unconditional_update=False,
)
PRIORITY_LEVEL: Resource[flowcontrol.PriorityLevelConfiguration] = Resource(
    kind=kind_of(flowcontrol.PriorityLevelConfiguration),
    default=default_level,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_level,
    validate_update=lambda new, _: validate_level(new),
    columns=LEVEL_COLUMNS,
    subresources=(status_part(),),
    allow_unconditional_update=False,
)
RESOURCES = (FLOW_SCHEMA, PRIORITY_LEVEL)
