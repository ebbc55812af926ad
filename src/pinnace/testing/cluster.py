"""A whole control plane in this process, on the simulated time of the loop that runs the test.

`Cluster` puts a `ControlPlane` over a memory store, simulated nodes, and the verbs that a test wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pinnace.api import codec, errors, yaml
from pinnace.api.kinds import KINDS, Kind, kind_of
from pinnace.apiserver.inprocess import ADMIN
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client, WatchEvent
from pinnace.cluster.settings import Settings
from pinnace.kubelet.simulated import LEASES, Life, Lives, SimulatedKubelets, SimulatedNodes
from pinnace.store import MemoryStore
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.loop import VirtualLoop

START = datetime(2026, 1, 1, tzinfo=UTC)     # when a simulated cluster begins

_STARTING = 60.0          # virtual seconds a cluster has to come up

Manifest = str | Path | Mapping[str, Any] | object


class Cluster:
    """A cluster for one test; must be entered on a `VirtualLoop`.

    ```python
    async with Cluster(nodes=3, seed=7) as cluster:
        await cluster.apply(Path("web.yaml"))
        await cluster.wait_for("pods", "web-0", condition="Ready", timeout=60)
    ```
    """

    def __init__(
        self, *, nodes: int = 1, seed: int = 0, life: Life | Lives | None = None,
        stages: Sequence[Mapping[str, Any] | str] | str = (),
    ) -> None:  # fmt: skip
        self.seed = seed
        self._life = life
        self._stages = stages
        self._settings = Settings(nodes=0, simulated_nodes=nodes, store="memory")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Cluster:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError("a simulated cluster needs a loop with virtual time: see pinnace.testing.loop.simulate")
        self._loop = loop
        self.clock = LoopClock(START, loop)
        try:
            await self._start(Randomness(self.seed))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, randomness: Randomness) -> None:
        clock = self.clock
        self.store = MemoryStore(clock)
        self._stack.push_async_callback(self.store.close)
        kubelets = SimulatedKubelets()
        self.control_plane = ControlPlane(self.store, self._settings, clock, randomness, kubelets=kubelets)
        self._stack.push_async_callback(self.control_plane.close)
        await self.control_plane.start()
        self.client = Client(self.control_plane.transport("user"), agent="pinnace-testing", user=ADMIN)
        parts = await self._stack.enter_async_context(Supervisor(clock))
        names, chance = self._settings.simulated_names(), randomness.fork()
        admin = Client(self.control_plane.transport("kubelet"), agent="simulated-nodes", user=ADMIN)
        self.nodes = SimulatedNodes(
            admin, names, clock=clock, randomness=chance, life=self._life, stages=self._stages, kubelets=kubelets
        )
        parts.start("simulated nodes", self.nodes.run)
        async with asyncio.timeout(_STARTING):
            await self.nodes.registered.wait()

    # ------------------------------------------------------------------------------------------------------ verbs

    async def apply(self, *manifests: Manifest, namespace: str = "default") -> list[Any]:
        """Create what YAML text, files, plain mappings or typed objects say, or merge it into what is there (a
        strategic merge: what a later manifest leaves out stays). Returns what the server made of each."""
        applied = []
        for manifest in manifests:
            for obj in _documents(manifest):
                kind = _kind_named(obj)
                place = (obj["metadata"].get("namespace") or namespace) if kind.namespaced else ""
                name = str(obj["metadata"]["name"])
                try:
                    applied.append(await self.client.create(codec.from_dict(kind.type, obj), namespace=place))
                except errors.AlreadyExists:
                    applied.append(await self.client.patch(kind.type, name, place, obj, type="strategic"))
        return applied

    async def get(self, kind: str | type[Any], name: str, namespace: str = "default") -> Any:
        found = resolve(kind)
        return await self.client.get(found.type, name, namespace if found.namespaced else "")

    async def list(self, kind: str | type[Any], namespace: str = "", *, label_selector: str = "") -> list[Any]:
        """Of one namespace, or of all."""
        return (await self.client.list(resolve(kind).type, namespace, label_selector=label_selector)).items

    async def delete(self, kind: str | type[Any], name: str, namespace: str = "default") -> None:
        found = resolve(kind)
        await self.client.delete(found.type, name, namespace if found.namespaced else "")

    async def watch(self, kind: str | type[Any], namespace: str = "") -> AsyncGenerator[WatchEvent[Any], None]:
        """What is there, then every change."""
        async for batch in self.client.watch(resolve(kind).type, namespace, send_initial_events=True):
            for event in batch:
                if event.type != "BOOKMARK":
                    yield event

    async def wait_for(
        self, kind: str | type[Any], name: str, namespace: str = "default", *,
        condition: str | Callable[[Any], bool], timeout: float = 60.0,
    ) -> Any:
        """The object once its condition of that name is True, or the function says so. Virtual seconds; raises
        TimeoutError, which tells how the object looked last."""
        holds = condition if callable(condition) else _condition(condition)
        place = namespace if resolve(kind).namespaced else ""
        last: Any = None
        events = self.watch(kind, place)
        try:
            async with asyncio.timeout(timeout):
                async for event in events:
                    if event.object.metadata.name != name:
                        continue
                    last = None if event.type == "DELETED" else event.object
                    if last is not None and holds(last):
                        return last
        except TimeoutError:
            shown = "it is not there" if last is None else yaml.dump(codec.to_dict(last).get("status"))
            raise TimeoutError(
                f"{kind} {name}: not {condition} within {timeout:g} virtual seconds (seed {self.seed}): {shown}"
            ) from None
        finally:
            await events.aclose()
        raise ConnectionError(f"the watch for {kind} {name} ended")

    # ------------------------------------------------------------------------------------------------------- time

    async def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let so much time pass, with everything that happens in it."""
        await asyncio.sleep(hours * 3600 + minutes * 60 + seconds)
        await self._loop.rest()

    async def settle(self, *, quiet: float = 2.0, limit: float = 600.0) -> None:
        """Run until the controllers and the scheduler rest and nothing was written for `quiet` virtual seconds
        (heartbeats aside). Raises TimeoutError after `limit` virtual seconds."""
        async with asyncio.timeout(limit):
            while True:
                before = await self._latest()
                await self.advance(seconds=quiet)
                if self.control_plane.idle and await self._latest() == before:
                    return

    async def _latest(self) -> int:
        """The newest revision that is no heartbeat's."""
        page = await self.store.list("")
        return max((e.modified for e in page.entries if f"/{LEASES}/" not in e.key), default=0)


def resolve(kind: str | type[Any]) -> Kind:
    """A kind by its type, or by what kubectl would understand: "pods", "po", "pod", "deployments.apps"."""
    if isinstance(kind, type):
        return kind_of(kind)
    word = kind.lower()
    for found in KINDS:
        if found.served and word in (found.plural, found.singular, found.resource, *found.short_names):
            return found
    raise errors.NotFound(f'the server doesn\'t have a resource type "{kind}"')


def _documents(manifest: Manifest) -> Iterable[dict[str, Any]]:
    if isinstance(manifest, Path):
        manifest = manifest.read_text()
    if isinstance(manifest, str):
        for document in yaml.load_all(manifest):
            yield from document["items"] if document.get("kind") == "List" else (document,)
    elif isinstance(manifest, Mapping):
        yield dict(manifest)
    else:
        kind = kind_of(manifest)
        yield {**codec.to_dict(manifest), "apiVersion": kind.api_version, "kind": kind.kind}


def _kind_named(obj: Mapping[str, Any]) -> Kind:
    wanted = (obj.get("apiVersion"), obj.get("kind"))
    for kind in KINDS:
        if (kind.api_version, kind.kind) == wanted:
            return kind
    raise errors.NotFound(f'no matches for kind "{wanted[1]}" in version "{wanted[0]}"')


def _condition(name: str) -> Callable[[Any], bool]:
    def holds(obj: Any) -> bool:
        conditions = getattr(getattr(obj, "status", None), "conditions", None) or ()
        return any(c.type == name and c.status == "True" for c in conditions)

    return holds
