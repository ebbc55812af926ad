"""What it costs to record a write's cause: CPU microseconds a commit.

`python bench/causes.py` prints a table.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from pinnace.apiserver.calls import Call
from pinnace.apiserver.paths import Target
from pinnace.client.transport import Request, User
from pinnace.store import Cause
from pinnace.store.history import Bounds, History
from pinnace.store.sqlite import _row, _Write

ROUNDS = 15
TIMES = 20_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "/registry/pods/default/web"
ABOUT = "ReplicaSet.apps/default/web-6d5f"

say = functools.partial(print, file=sys.stdout)


def microseconds(work: Callable[[], object]) -> float:
    """The best of several rounds: others use the machine too."""
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES):
            work()
        spent.append((time.process_time() - began) / TIMES * 1e6)
    return min(spent)


def call(headers: dict[str, str], because: tuple[int, ...] = (), about: str = "") -> Call:
    request = Request("POST", "/", {}, headers, because=because, about=about)
    nothing = cast(Any, None)
    return Call(nothing, request, Target("", "v1", "pods"), nothing, nothing, User("ann"), "create")


def applied(cause: Cause | None) -> float:
    """In the history, a key out of 500 each time."""
    spent = []
    for _ in range(ROUNDS):
        history = History(Bounds())
        began = time.process_time()
        for revision in range(1, TIMES + 1):
            key = f"{KEY}{revision % 500}"
            history.apply(key, b"x", revision, cause, history.entry(key, None))
        spent.append((time.process_time() - began) / TIMES * 1e6)
    return min(spent)


def main() -> None:
    controller = call({"user-agent": "kube-controller-manager/replicaset-controller"}, (12345, 12350), ABOUT)
    headers = {"user-agent": "kubelet", "pinnace-because": "123456", "pinnace-about": "Pod/default/web"}
    kubelet = call(headers)
    kubectl = call({"user-agent": "kubectl/v1.36.0 (linux/amd64) kubernetes/abc"})
    for name, one in (("controller", controller), ("kubelet, over HTTPS", kubelet), ("kubectl", kubectl)):
        say(f"made by the API server, {name:<22} {microseconds(functools.partial(one.cause, NOW)):5.2f} µs")
    cause = controller.cause(NOW)
    rows = [_Write(KEY, b"{}", None, given, cast(Any, None)) for given in (cause, None)]
    extra = microseconds(lambda: _row(rows[0])) - microseconds(lambda: _row(rows[1]))
    say(f"in SQLite's row, more than without a cause      {extra:5.2f} µs")
    say(f"in the history, more than without a cause       {applied(cause) - applied(None):5.2f} µs")


if __name__ == "__main__":
    main()
