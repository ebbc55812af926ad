"""Keeps a `Zone` to the cluster's Services, EndpointSlices and Namespaces, as informers tell of them."""

from __future__ import annotations

import asyncio
import logging

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.client.informer import Event, Informers
from pinnace.network.dns.zone import Key, Zone, service_records

log = logging.getLogger("pinnace.dns")

_SERVICE_LABEL = "kubernetes.io/service-name"
_INDEX = "dns-service"


class ClusterRecords:
    """`run` until cancelled; `ready` is set once the zone shows the first lists. Changes take effect at once:
    planning one service's records takes microseconds."""

    def __init__(self, informers: Informers, zone: Zone) -> None:
        self.zone = zone
        zone.complete = False
        self.ready = asyncio.Event()
        self._services = informers.of(core.Service)
        self._slices = informers.of(discovery.EndpointSlice)
        self._namespaces = informers.of(core.Namespace)
        self._slices.add_index(_INDEX, _service_of)

    async def run(self) -> None:
        stops = (
            self._namespaces.subscribe(self._on_namespace),
            self._services.subscribe(self._on_service),
            self._slices.subscribe(self._on_slice),
        )
        try:
            for informer in (self._namespaces, self._services, self._slices):
                await informer.wait_synced()
            # This part may have died and started again: what went away in between is still in the zone.
            self.zone.retain(
                {(service.metadata.namespace or "", service.metadata.name or "") for service in self._services.cache},
                {namespace.metadata.name or "" for namespace in self._namespaces.cache},
            )
            self.zone.complete = True
            self.ready.set()
            await asyncio.get_running_loop().create_future()
        finally:
            for stop in stops:
                stop()

    def _update(self, key: Key) -> None:
        service = self._services.cache.get(*key)
        slices = self._slices.cache.by_index(_INDEX, key)
        try:
            self.zone.replace(key, [] if service is None else service_records(service, slices, self.zone.domain))
        except ValueError as error:   # a name or address that DNS cannot hold: that service alone is left out
            log.warning("service %s/%s has no records: %s", *key, error)
            self.zone.replace(key, [])

    def _on_namespace(self, event: Event[core.Namespace]) -> None:
        if event.new is None and event.old is not None:
            self.zone.set_namespace(event.old.metadata.name or "", False)
        elif event.old is None and event.new is not None:
            self.zone.set_namespace(event.new.metadata.name or "", True)

    def _on_service(self, event: Event[core.Service]) -> None:
        service = event.new or event.old
        if service is not None:
            self._update((service.metadata.namespace or "", service.metadata.name or ""))

    def _on_slice(self, event: Event[discovery.EndpointSlice]) -> None:
        for slice_ in (event.old, event.new):
            if slice_ is not None:
                for key in _service_of(slice_):
                    service = self._services.cache.get(*key)
                    if service is not None and service.spec.clusterIP == "None":
                        self._update(key)


def _service_of(slice_: discovery.EndpointSlice) -> tuple[Key, ...]:
    name = (slice_.metadata.labels or {}).get(_SERVICE_LABEL)
    return ((slice_.metadata.namespace or "", name),) if name else ()
