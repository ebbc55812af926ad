"""Leases: who holds what, and since when. Written all the time, so there is little to check."""

from __future__ import annotations

from collections.abc import Iterator

from pinnace.api.coordination import v1 as coordination
from pinnace.api.fields import FieldError, invalid
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column


def validate(lease: coordination.Lease) -> Iterator[FieldError]:
    spec = lease.spec
    if spec.leaseDurationSeconds is not None and spec.leaseDurationSeconds <= 0:
        yield invalid("spec.leaseDurationSeconds", spec.leaseDurationSeconds, "must be greater than 0")
    if spec.leaseTransitions is not None:
        yield from rules.non_negative("spec.leaseTransitions", spec.leaseTransitions)
    if spec.preferredHolder and not spec.strategy:
        yield invalid("spec.preferredHolder", spec.preferredHolder, "may only be specified if `strategy` is defined")


LEASE: Resource[coordination.Lease] = Resource(
    kind=kind_of(coordination.Lease),
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    columns=(NAME, column("Holder", lambda lease: lease.spec.holderIdentity or "", "Who holds it."), AGE),
    generation=False,
    allow_create_on_update=True,
    allow_unconditional_update=False,
)
RESOURCES = (LEASE,)
