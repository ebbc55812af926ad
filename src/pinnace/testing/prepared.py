"""What every cluster has from its start, made once a process: a new memory store begins with it.

The objects are those of `cluster.bootstrap`, written through an API server of their own. Their uids come from a seed of
their own, so that it makes no difference to a run whether it is the first in its process. Values and decoded objects
are shared by all clusters, and never changed by any.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pinnace.api import times
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.cache import Entry
from pinnace.apiserver.inprocess import ADMIN, InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.cluster import bootstrap
from pinnace.cluster.settings import Settings
from pinnace.controllers import clusterrole_aggregation
from pinnace.controllers.plan import Update
from pinnace.store.memory import Beginning, MemoryStore

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)     # when a simulated cluster begins
_MOST = 8                                    # different settings that are remembered

_prepared: dict[tuple[object, ...], Prepared] = {}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What happened in the store at `START`, and its entries as the API server's caches hold them."""

    beginning: Beginning
    decoded: Mapping[str, Entry]

    def at(self, now: datetime) -> Prepared:
        """The same, made at another time."""
        if now == START:
            return self
        before, after = (f'"creationTimestamp":"{times.format(moment)}"'.encode() for moment in (START, now))
        return Prepared(self.beginning.rewritten(lambda value: value.replace(before, after)), {})


def prepared(settings: Settings, now: datetime) -> Prepared:
    """For an empty store."""
    key = (settings.service_cidr, settings.kubernetes_ip, settings.dns_ip, settings.api_port)
    found = _prepared.get(key)
    if found is None:
        if len(_prepared) >= _MOST:
            _prepared.clear()
        found = _prepared[key] = _prepare(settings)
    return found.at(now)


def fill(store: MemoryStore, settings: Settings, now: datetime) -> Mapping[str, Entry]:
    """Let an empty store begin with it; what was decoded already, for the first server over that store."""
    ready = prepared(settings, now)
    store.begin(ready.beginning)
    return ready.decoded


def _prepare(settings: Settings) -> Prepared:
    clock = ManualClock(START)
    store = MemoryStore(clock)
    server = ApiServer(store, RESOURCES, clock, Randomness(0), service_cidr=settings.service_cidr)
    _at_once(server.start())
    client = Client(InProcessTransport(server), agent="pinnace", user=ADMIN)
    for obj in bootstrap.objects(settings):
        _at_once(client.create(obj))
    _aggregate(server, client)
    decoded = {
        entry.key: entry for registry in server.registries() for entry in registry.cache.entries.values()
    }
    _at_once(server.close())
    return Prepared(store.beginning(), decoded)


def _aggregate(server: ApiServer, client: Client) -> None:
    """Give the aggregated roles their rules, as their controller would; some are parts of others."""
    registry = server.registry(rbac.ClusterRole)
    aggregated = [role.metadata.name or "" for role in registry.list() if role.aggregationRule is not None]
    for name in aggregated * len(aggregated):
        seen = clusterrole_aggregation.observe(registry.get("", name), registry.list())
        for action in clusterrole_aggregation.decide(seen).actions if seen is not None else ():
            assert isinstance(action, Update)
            _at_once(client.update(action.object))


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """What nothing waits in, without a turn of the loop: turns are part of a run."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("a server over a memory store waited for something")
