"""What /metrics shows, in Prometheus' text form: requests, their duration, watchers, the process."""

from __future__ import annotations

import os
import resource as rlimits
from bisect import bisect_left
from collections import Counter, defaultdict
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from pinnace.apiserver.paths import Target
from pinnace.base.clock import Clock

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

_BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_FIRST = _BUCKETS[0]
_KNOWN = frozenset({"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect"})
_LONG = frozenset({"watch", "connect"})
_MOST_SERIES = 4096       # beyond it, what is new is counted under the resource "other"

_Key = tuple[str, str, str, str, str]


class Series:
    """Requests of one verb on one resource: how many by status code, and how long they took."""

    __slots__ = ("_slow", "long", "seconds", "totals")

    def __init__(self, long: bool) -> None:
        self.long = long                                     # meant to last: nobody asks how long
        self.totals: defaultdict[int, int] = defaultdict(int)
        self.seconds = 0.0
        self._slow = [0] * (len(_BUCKETS) + 1)               # those beyond the first bucket

    def count(self, code: int, seconds: float) -> None:
        self.totals[code] += 1
        self.seconds += seconds
        if seconds > _FIRST:
            self._slow[bisect_left(_BUCKETS, seconds)] += 1

    @property
    def buckets(self) -> list[int]:
        """How many took no longer than each bound, and no longer than the bound before; last those beyond all."""
        return [sum(self.totals.values()) - sum(self._slow), *self._slow[1:]]


class Metrics:
    """Counters, cheap to keep: a route (`routes.py`) knows its series."""

    def __init__(self, clock: Clock) -> None:
        self._started = clock.now().timestamp()
        self._series: dict[_Key, Series] = {}

    def series(self, verb: str, target: Target | None) -> Series:
        if target is not None:
            key: _Key = (target.group, target.version, target.resource, target.subresource, verb)
        else:
            key = ("", "", "", "", verb)
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= _MOST_SERIES:
                key = ("", "", "other", "", verb if verb in _KNOWN else "")
            found = self._series.setdefault(key, Series(verb in _LONG))
        return found

    def text(self, server: ApiServer) -> str:
        lines = ["# HELP apiserver_request_total Requests answered.", "# TYPE apiserver_request_total counter"]
        series = sorted(self._series.items(), key=itemgetter(0))
        for key, one in series:
            for code, total in sorted(one.totals.items()):
                lines.append(f'apiserver_request_total{{{_labels(key)},code="{code}"}} {total}')
        name = "apiserver_request_duration_seconds"
        lines += [f"# HELP {name} How long requests took.", f"# TYPE {name} histogram"]
        for key, one in series:
            if one.long or not one.totals:
                continue
            running = 0
            for bound, number in zip((*_BUCKETS, "+Inf"), one.buckets, strict=True):
                running += number
                lines.append(f'{name}_bucket{{{_labels(key)},le="{bound}"}} {running}')
            lines += [f"{name}_sum{{{_labels(key)}}} {one.seconds:g}", f"{name}_count{{{_labels(key)}}} {running}"]
        lines += _gauges(server)
        lines += _process(self._started)
        return "\n".join(lines) + "\n"


def _labels(key: _Key) -> str:
    group, version, resource, subresource, verb = (_escape(word) for word in key)
    where = f'group="{group}",version="{version}",resource="{resource}",subresource="{subresource}"'
    return f'{where},verb="{verb.upper()}"'


def _escape(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _gauges(server: ApiServer) -> list[str]:
    now = server.inflight.now
    lines = [
        "# TYPE apiserver_current_inflight_requests gauge",
        f'apiserver_current_inflight_requests{{request_kind="readOnly"}} {now[False]}',
        f'apiserver_current_inflight_requests{{request_kind="mutating"}} {now[True]}',
        "# TYPE apiserver_longrunning_requests gauge",
        "# TYPE apiserver_storage_objects gauge",
        "# TYPE etcd_mvcc_db_revision gauge",
        f"etcd_mvcc_db_revision {server.store.revision}",
    ]
    watches = Counter(watch.registry for watch in server.watches)
    for registry in server.registries():
        kind, cache = registry.kind, registry.cache
        if watches[registry]:
            lines.append(
                f'apiserver_longrunning_requests{{group="{kind.group}",resource="{kind.plural}",verb="WATCH"}} '
                f"{watches[registry]}"
            )
        if cache.entries and registry.resource.stored_as is None:
            lines.append(f'apiserver_storage_objects{{resource="{kind.resource}"}} {len(cache.entries)}')
    return lines


def _process(started: float) -> list[str]:
    usage = rlimits.getrusage(rlimits.RUSAGE_SELF)
    lines = [
        "# TYPE process_cpu_seconds_total counter",
        f"process_cpu_seconds_total {usage.ru_utime + usage.ru_stime:g}",
        "# TYPE process_start_time_seconds gauge",
        f"process_start_time_seconds {started:.2f}",
    ]
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = statm.read_text().split()
        size = os.sysconf("SC_PAGE_SIZE")
        lines += [
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {int(pages[1]) * size}",
            "# TYPE process_virtual_memory_bytes gauge",
            f"process_virtual_memory_bytes {int(pages[0]) * size}",
            "# TYPE process_open_fds gauge",
            f"process_open_fds {sum(1 for _ in Path('/proc/self/fd').iterdir())}",
        ]
    return lines
