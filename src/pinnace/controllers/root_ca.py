"""Every namespace has the cluster's root certificate in a config map, which pods mount beside their token."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Event, Informers
from pinnace.controllers.plan import NOTHING, Create, Plan, Ref, Related, Update
from pinnace.controllers.serviceaccount import is_alive

NAME = "kube-root-ca.crt"
_ANNOTATION = "kubernetes.io/description"
_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as "
    "the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of "
    "Kubernetes clusters."
)


class Seen(msgspec.Struct, frozen=True):
    namespace: core.Namespace
    published: core.ConfigMap | None
    ca: str


class RootCAPublisher:
    """`ca` is the PEM text to publish."""

    name = "root-ca-certificate-publisher"

    def __init__(self, informers: Informers, ca: str) -> None:
        self.primary = informers.of(core.Namespace)
        self._maps = informers.of(core.ConfigMap)
        self._ca = ca
        self.watches = (Related(self._maps, _namespace_of),)

    def observe(self, ref: Ref) -> Seen | None:
        namespace = self.primary.cache.get("", ref[1])
        if namespace is None:
            return None
        return Seen(namespace, self._maps.cache.get(ref[1], NAME), self._ca)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen)


def decide(seen: Seen) -> Plan:
    if not is_alive(seen.namespace):
        return NOTHING
    data, published = {"ca.crt": seen.ca}, seen.published
    if published is None:
        name = meta.ObjectMeta(
            name=NAME, namespace=seen.namespace.metadata.name, annotations={_ANNOTATION: _DESCRIPTION}
        )
        return Plan((Create(core.ConfigMap(metadata=name, data=data)),))
    annotations = published.metadata.annotations or {}
    if published.data == data and _ANNOTATION in annotations:
        return NOTHING
    name = msgspec.structs.replace(published.metadata, annotations={**annotations, _ANNOTATION: _DESCRIPTION})
    return Plan((Update(msgspec.structs.replace(published, metadata=name, data=data)),))


def _namespace_of(event: Event[core.ConfigMap]) -> Iterable[Ref]:
    obj = event.old if event.new is None else event.new
    if obj.metadata.name == NAME:
        yield "", obj.metadata.namespace or ""
