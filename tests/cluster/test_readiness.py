"""What counts as ready, and what a cluster's end needs to know."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.cluster.control_plane import _free_port, _is_free, _node_prefix
from pinnace.cluster.launch import namesakes
from pinnace.cluster.layout import Home
from pinnace.cluster.readiness import is_ready, renewed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "answer"),
    [
        (None, False),
        ("2026-01-01T11:59:59.999999Z", False),
        ("2026-01-01T12:00:00.000000Z", True),
        ("2026-01-01T12:00:00.000001Z", True),
    ],
)
def test_a_lease_of_an_earlier_life_is_none(time: str | None, answer: bool) -> None:
    lease = coordination.Lease(metadata=meta.ObjectMeta(name="n"), spec=coordination.LeaseSpec(renewTime=time))
    assert renewed(lease, NOON) is answer


@pytest.mark.parametrize(("status", "answer"), [("True", True), ("False", False), ("Unknown", False)])
def test_a_node_is_ready_by_its_condition(status: str, answer: bool) -> None:
    conditions = [
        core.NodeCondition(type="DiskPressure", status="True"),
        core.NodeCondition(type="Ready", status=status),
    ]
    assert is_ready(core.Node(status=core.NodeStatus(conditions=conditions))) is answer
    assert not is_ready(core.Node(status=core.NodeStatus()))


def test_a_taken_port_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not _is_free(port)
        assert _free_port() != port
    assert _is_free(port)
    assert not _is_free(0)


@pytest.mark.parametrize(
    ("cidr", "prefix"), [("10.244.0.0/16", 24), ("10.0.0.0/8", 24), ("10.0.0.0/22", 25), ("10.0.0.0/26", 28)]
)
def test_every_node_gets_a_range(cidr: str, prefix: int) -> None:
    assert _node_prefix(cidr) == prefix


def test_nobody_else_is_a_namesake(tmp_path: Path) -> None:
    assert not namesakes(Home(tmp_path).cluster("one"))


def test_the_control_plane_needs_no_linux() -> None:
    """Neither to be imported, nor with simulated nodes."""
    program = (
        "import os, socket, sys\n"
        "for module, name in ((socket, 'AF_NETLINK'), (os, 'pidfd_open'), (os, 'setns')):\n"
        "    if hasattr(module, name): delattr(module, name)\n"
        "import pinnace.cluster.control_plane, pinnace.kubelet.simulated, pinnace.cli.up, pinnace.cli.down\n"
        "assert not [name for name in sys.modules if name in ('pinnace.network.netlink', 'pinnace.runtime.engine')]\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
