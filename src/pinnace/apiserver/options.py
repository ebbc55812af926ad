"""The options of a call: query parameters and DeleteOptions, checked as upstream checks them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pinnace.api import fields
from pinnace.api.errors import BadRequest, Invalid
from pinnace.api.fields import FieldError

Query = Mapping[str, tuple[str, ...]]

_META_GROUP = "meta.k8s.io"
_POLICIES = ("Foreground", "Background", "Orphan")
_VALIDATIONS = ("Ignore", "Warn", "Strict")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False", ""})


def text(query: Query, name: str) -> str:
    """The parameter's first value; "" if there is none."""
    values = query.get(name)
    return values[0] if values else ""


def flag(query: Query, name: str) -> bool:
    """A boolean parameter; present without a value means true, as upstream's `watch` does. Raises BadRequest."""
    if name not in query:
        return False
    value = text(query, name)
    if value in _TRUE:
        return True
    if value in _FALSE:
        return value == "" and name == "watch"
    raise BadRequest(f'strconv.ParseBool: parsing "{value}": invalid syntax')


def number(query: Query, name: str) -> int | None:
    """A whole number; None if absent. Raises BadRequest."""
    value = text(query, name)
    if not value:
        return None
    try:
        found = int(value)
    except ValueError:
        raise BadRequest(f'strconv.ParseInt: parsing "{value[:64]}": invalid syntax') from None
    if not -(2**63) <= found < 2**63:
        raise BadRequest(f'strconv.ParseInt: parsing "{value[:64]}": value out of range')
    return found


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Of create, update and patch."""

    dry_run: bool = False
    validation: str = "Warn"
    manager: str = ""
    force: bool = False


NO_OPTIONS = WriteOptions()


def write_options(query: Query, kind: str) -> WriteOptions:
    """Raises Invalid, naming the options' kind (CreateOptions, UpdateOptions, PatchOptions)."""
    if not query:
        return NO_OPTIONS
    findings: list[FieldError] = []
    dry = _dry_run(query.get("dryRun", ()), findings)
    validation = text(query, "fieldValidation")
    if validation and validation not in _VALIDATIONS:
        findings.append(fields.not_supported("fieldValidation", validation, _VALIDATIONS))
    manager = text(query, "fieldManager")
    if len(manager) > 128:
        findings.append(fields.too_long("fieldManager", manager, 128))
    elif not manager.isprintable():
        findings.append(fields.invalid("fieldManager", manager, "should only contain printable characters"))
    if findings:
        raise Invalid.of(kind, _META_GROUP, "", findings)
    return WriteOptions(dry, validation or "Warn", manager, flag(query, "force"))


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a deletion asks for. `grace` None: the kind's own; `policy` "": the kind's own."""

    grace: int | None = None
    policy: str = ""
    orphan: bool | None = None       # the old orphanDependents
    uid: str = ""
    revision: str = ""
    dry_run: bool = False


_DEFAULT_DELETE = DeleteOptions()


def delete_options(query: Query, body: Any) -> DeleteOptions:
    """From the query or the decoded body (None: there is none), of which the body wins. Raises Invalid, BadRequest."""
    if not query and body is None:
        return _DEFAULT_DELETE
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise BadRequest("expected DeleteOptions, got something that is no object")
    kind = body.get("kind")
    if kind not in (None, "", "DeleteOptions"):
        raise BadRequest(f"decoded object cannot be converted to DeleteOptions: it is a {kind}")
    findings: list[FieldError] = []
    grace = body.get("gracePeriodSeconds", number(query, "gracePeriodSeconds"))
    policy = body.get("propagationPolicy") or text(query, "propagationPolicy")
    orphan = body.get("orphanDependents", flag(query, "orphanDependents") if "orphanDependents" in query else None)
    dry = body.get("dryRun") or query.get("dryRun", ())
    conditions = body.get("preconditions") or {}
    _check_types(grace, policy, orphan, dry, conditions)
    if policy and orphan is not None:
        findings.append(
            fields.invalid(
                "propagationPolicy", policy, "orphanDependents and deletionPropagation cannot be both set"
            )
        )
    if policy and policy not in _POLICIES:
        findings.append(fields.not_supported("propagationPolicy", policy, (*_POLICIES, "nil")))
    dry_run = _dry_run(dry, findings)
    if findings:
        raise Invalid.of("DeleteOptions", _META_GROUP, "", findings)
    if grace is not None and grace < 0:
        grace = 1      # upstream: a negative period is the shortest graceful one
    return DeleteOptions(
        grace, policy, orphan, conditions.get("uid") or "", conditions.get("resourceVersion") or "", dry_run
    )


def _check_types(grace: Any, policy: Any, orphan: Any, dry: Any, conditions: Any) -> None:
    ok = (
        (grace is None or (isinstance(grace, int) and not isinstance(grace, bool)))
        and isinstance(policy, str)
        and (orphan is None or isinstance(orphan, bool))
        and isinstance(dry, list | tuple)
        and isinstance(conditions, dict)
        and all(isinstance(conditions.get(name) or "", str) for name in ("uid", "resourceVersion"))
    )
    if not ok:
        raise BadRequest("DeleteOptions cannot be handled: a field has the wrong type")


def _dry_run(values: Any, findings: list[FieldError]) -> bool:
    wrong = [value for value in values if value != "All"]
    if wrong:
        findings.append(fields.not_supported("dryRun", list(values), ("All",)))
    return bool(values)
