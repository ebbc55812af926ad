"""Every namespace has a service account `default`: what pods run as that name no other."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Event, Informers
from pinnace.controllers.plan import NOTHING, Create, Plan, Ref, Related

_NAME = "default"


class Seen(msgspec.Struct, frozen=True):
    namespace: core.Namespace
    account: core.ServiceAccount | None


class ServiceAccountController:
    name = "service-account"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(core.Namespace)
        self._accounts = informers.of(core.ServiceAccount)
        self.watches = (Related(self._accounts, _namespace_of),)

    def observe(self, ref: Ref) -> Seen | None:
        namespace = self.primary.cache.get("", ref[1])
        return Seen(namespace, self._accounts.cache.get(ref[1], _NAME)) if namespace is not None else None

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen)


def decide(seen: Seen) -> Plan:
    if seen.account is not None or not is_alive(seen.namespace):
        return NOTHING
    data = meta.ObjectMeta(name=_NAME, namespace=seen.namespace.metadata.name)
    return Plan((Create(core.ServiceAccount(metadata=data)),))


def is_alive(namespace: core.Namespace) -> bool:
    """Not on its way out: new content is welcome."""
    phase = namespace.status.phase if namespace.status is not None else None
    return namespace.metadata.deletionTimestamp is None and phase != "Terminating"


def _namespace_of(event: Event[core.ServiceAccount]) -> Iterable[Ref]:
    if event.new is None and event.old.metadata.name == _NAME:
        yield "", event.old.metadata.namespace or ""
