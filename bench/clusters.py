"""Clusters for the bench: each with a home of its own in a temporary directory, gone without trace afterwards."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pinnace.client.client import Client
from pinnace.client.https import HttpsTransport, client_context

IMAGE = "pinnace.local/busybox:1"
_DOWN_SECONDS = 60.0
_numbers = itertools.count(1)


class CommandFailed(Exception):
    """A pinnace command did not do what it should."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster of this machine, driven from outside as its owner would."""

    name: str
    base: Path                     # everything of it lies under here
    took: float = 0.0              # seconds that `up` took, once it runs

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def directory(self) -> Path:
        return self.home / "clusters" / self.name

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def port(self) -> int:
        return int(msgspec.json.decode((self.directory / "cluster.json").read_bytes())["apiPort"])

    def pids(self) -> dict[str, int]:
        """The processes of the cluster, by what they are (`server`, or a node's name)."""
        files = sorted((self.directory / "run").glob("*.pid"))
        return {file.stem: int(file.read_text().split()[0]) for file in files}

    def pinnace(self, *arguments: str, timeout: float = 130.0) -> float:
        """Run one command; the seconds it took. Raises CommandFailed."""
        command = [sys.executable, "-m", "pinnace", *arguments]
        environment = os.environ | {"PINNACE_HOME": str(self.home), "KUBECONFIG": str(self.base / "kubeconfig")}
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as expired:
            raise CommandFailed(f"pinnace {' '.join(arguments)}: not done after {timeout:.0f} s") from expired
        if done.returncode:
            raise CommandFailed(f"pinnace {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return time.perf_counter() - start

    def up(self, *arguments: str, timeout: float = 130.0) -> float:
        return self.pinnace("up", "--name", self.name, "--no-egress", *arguments, timeout=timeout)

    def client(self) -> Client:
        """The administrator's, over HTTPS. Close its transport."""
        context = client_context(
            ca=(self.pki / "ca.crt").read_bytes(), certificate=self.pki / "admin.crt", key=self.pki / "admin.key"
        )
        return Client(HttpsTransport(f"https://127.0.0.1:{self.port}", context), agent="bench")


@contextmanager
def prepared() -> Iterator[Cluster]:
    """A cluster that is not started yet; taken down and deleted at the end, come what may."""
    base = Path(tempfile.mkdtemp(prefix="pinnace-bench-"))
    cluster = Cluster(f"bench-{os.getpid()}-{next(_numbers)}", base)
    try:
        yield cluster
    finally:
        # If this fails there may be mounts below: the directory stays, and the error names the command.
        cluster.pinnace("down", "--name", cluster.name, "--purge", timeout=_DOWN_SECONDS)
        shutil.rmtree(base)


@contextmanager
def running(*arguments: str, image: bool = False, seconds: float = 130.0) -> Iterator[Cluster]:
    """A cluster that is ready; with `image`, busybox is in its nodes' store."""
    with prepared() as cluster:
        if image:
            cluster.pinnace("image", "build-busybox", "--tag", IMAGE)
        yield replace(cluster, took=cluster.up(*arguments, timeout=seconds))
