"""Requests for certificates go when nobody needs them any more: upstream's csrcleaner, but at the time itself, where
upstream looks once an hour."""

from __future__ import annotations

from datetime import datetime, timedelta

from pinnace.api import times
from pinnace.client.informer import Informers
from pinnace.controllers.certificates.requests import APPROVED, DENIED, FAILED, Csr, expiry
from pinnace.controllers.plan import NOTHING, Delete, Plan, Ref, Watch

DONE = timedelta(hours=1)         # after it was issued, denied, or failed
PENDING = timedelta(hours=24)     # without a decision, or approved without a certificate


class CsrCleaner:
    name = "csrcleaner"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(Csr)
        self.watches: tuple[Watch, ...] = ()

    def observe(self, ref: Ref) -> Csr | None:
        return self.primary.cache.find(ref)

    def decide(self, seen: Csr, now: datetime) -> Plan:
        return decide(seen, now)


def decide(request: Csr, now: datetime) -> Plan:
    end = over_at(request)
    if end is None:
        return NOTHING
    if end > now:
        return Plan(again=end - now)
    about = request.metadata
    return Plan((Delete(Csr, "", about.name or "", about.uid or ""),))


def over_at(request: Csr) -> datetime | None:
    """When the request is to go; None if what is known does not tell."""
    certificate = request.status.certificate
    ends = []
    if not request.status.conditions:
        ends.append(_after(request.metadata.creationTimestamp, PENDING))
    for condition in request.status.conditions or ():
        if condition.type in (DENIED, FAILED):
            ends.append(_after(condition.lastUpdateTime, DONE))
        elif condition.type == APPROVED and certificate:
            ends += [_after(condition.lastUpdateTime, DONE), expiry(certificate)]
        elif condition.type == APPROVED:
            ends.append(_after(condition.lastUpdateTime, PENDING))
    return min((end for end in ends if end is not None), default=None)


def _after(text: str | None, span: timedelta) -> datetime | None:
    return times.parse(text) + span if text else None

