"""A cluster that is kept busy and is hurt for a while: it stays whole, and does not grow. Only `make soak` runs it.

PINNACE_SOAK_SECONDS says for how long (600).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from .conftest import IMAGE, Cluster, eventually

SECONDS = float(os.environ.get("PINNACE_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("PINNACE_SOAK_SEED", str(int(time.time()))))
MOST_GROWTH = 64 * 2**20         # resident bytes that a process may grow by after the first rounds
MOST_DESCRIPTORS = 40


def processes(cluster: Cluster) -> dict[str, int]:
    (state,) = json.loads(cluster.pinnace("status", "--name", cluster.name, "-o", "json", check=False).out)
    return {part: int(about.rpartition(" ")[2]) for part, about in state["processes"].items() if "pid" in about}


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.soak
def test_a_busy_cluster_stays_whole_and_small(cluster: Cluster, namespace: str) -> None:
    chance = random.Random(SEED)
    command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
    cluster.kubectl("create", "deployment", "busy", f"--image={IMAGE}", "--", *command)
    server = processes(cluster)["server"]
    end = time.monotonic() + SECONDS
    first: tuple[int, int] | None = None
    rounds = 0
    while time.monotonic() < end:
        replicas = chance.randint(0, 12)
        cluster.kubectl("scale", "deployment/busy", f"--replicas={replicas}")
        running = [pid for part, pid in processes(cluster).items() if part != "server"]
        if running and chance.random() < 0.3:
            os.kill(chance.choice(running), signal.SIGKILL)

        def settled(wanted: int = replicas) -> bool:
            pods = cluster.get("pods", "-l", "app=busy")["items"]
            return len(pods) == wanted and all(pod["status"]["phase"] == "Running" for pod in pods)

        try:
            eventually(settled)
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}, round {rounds}, {replicas} replicas: {error}") from error
        rounds += 1
        if rounds == 5:
            first = resident(server), descriptors(server)
    assert processes(cluster)["server"] == server, "the server never died"
    assert first is not None, "five rounds took too long"
    assert resident(server) - first[0] < MOST_GROWTH
    assert descriptors(server) - first[1] < MOST_DESCRIPTORS
