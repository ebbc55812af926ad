"""One run of the whole control plane from one seed: users and faults for some virtual minutes, with every law checked
after every commit; then the faults stop, everything has to converge, be right, and fall silent."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pinnace.api import codec
from pinnace.api.labels import selector_of
from pinnace.apiserver.inprocess import ADMIN
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.cluster.settings import Settings
from pinnace.kubelet.simulated import Life, SimulatedNode, SimulatedNodes
from pinnace.store import MemoryStore
from pinnace.testing.cluster import START
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.faults import Faults
from pinnace.testing.invariants import Invariants
from pinnace.testing.laws import finished, is_active, is_ready, is_serving
from pinnace.testing.loop import simulate
from pinnace.testing.world import World

from .workload import STAYING, Workload

CONVERGE = 900.0      # virtual seconds from the end of the faults until everything has to be right …
SILENT = 100.0        # … and nothing but heartbeats has been written for so long


@dataclass
class Result:
    seed: int
    revisions: int = 0
    virtual: float = 0.0
    crashes: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    error: str = ""


class _Died(logging.Handler):
    """A part that dies of an exception is a bug, though its supervisor starts it again."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(logging.Formatter("%(name)s: %(message)s").format(record))


def run(seed: int, *, rate: float | None = None) -> Result:
    """Never raises for what the run finds: see `error`."""
    result = Result(seed)
    died = _Died()
    logger = logging.getLogger("pinnace")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(died)
    try:
        simulate(lambda: _run(seed, result, died, rate), seed=seed)
    except AssertionError as error:
        result.error = f"seed {seed}: {error}\n  replay: .venv/bin/python -m tests.simulation {seed}"
    finally:
        logger.removeHandler(died)
        logger.setLevel(level)
        logger.propagate = propagate
    return result


async def _run(seed: int, result: Result, died: _Died, rate: float | None) -> None:
    loop = asyncio.get_running_loop()
    draw, randomness = random.Random(seed), Randomness(seed)
    clock = LoopClock(START, loop)
    store = MemoryStore(clock)
    invariants = Invariants(store, clock)
    if rate is None:
        rate = draw.choice((0.0, 0.01, 0.01, 0.03, 0.03, 0.1))
    faults = Faults.drawn(randomness.fork(), rate=rate, after=5.0)
    plane = ControlPlane(
        faults.store(invariants), Settings(nodes=0, store="memory"), clock, randomness.fork(), wrap=faults.wrap
    )
    names = [f"node-{number}" for number in range(draw.randint(3, 4))]
    life = Life(start=draw.choice((0.05, 1.0, 4.0)), stop=draw.choice((0.02, 2.0)))
    try:
        await plane.start()
        async with Supervisor(clock) as parts:
            nodes = SimulatedNodes(
                Client(plane.transport("kubelet"), agent="kubelet", user=ADMIN), names, clock=clock,
                randomness=randomness.fork(), life=life, node=SimulatedNode(cpus=4.0, memory=8 * 2**30, max_pods=20),
            )  # fmt: skip
            parts.start("simulated nodes", nodes.run)
            faults.attach(plane, nodes)
            await nodes.registered.wait()
            user = Workload(Client(plane.transport("user"), agent="user", user=ADMIN), draw)
            try:
                await _play(user, draw, clock, faults, plane, invariants)
            except AssertionError as error:
                done = "\n    ".join(map(str, list(faults.log)[-40:]))
                users = "\n    ".join(user.done)
                raise AssertionError(f"{error}\n  faults:\n    {done}\n  user:\n    {users}") from None
            result.crashes = plane.crashes
        await plane.close()
        await store.close()
        _leaves_nothing(asyncio.all_tasks())
        assert not died.records, f"something died: {died.records[:3]}"
    finally:
        result.revisions, result.virtual, result.faults = store.revision, loop.time(), faults.counts


async def _play(
    user: Workload, draw: random.Random, clock: LoopClock, faults: Faults, plane: ControlPlane, invariants: Invariants
) -> None:
    await user.begin(clock.sleep)
    if faults.nodes is not None:
        _harm_nodes(faults, draw, clock.monotonic())
    until = clock.monotonic() + draw.choice((30.0, 30.0, 60.0, 60.0, 100.0, 250.0))
    while clock.monotonic() < until:
        await user.act()
        await clock.sleep(draw.choice((0.0, 0.3, 2.0, 10.0)))
        invariants.check()
    faults.stop()
    await plane.up()
    await user.end()
    stopped = clock.monotonic()
    told: list[str] = []
    while clock.monotonic() - stopped < CONVERGE:
        await clock.sleep(10.0)
        invariants.check()
        told = list(wrong(invariants))
        if not told and clock.monotonic() - invariants.last_change >= SILENT:
            break
    else:
        still = [line for _, _, line in list(invariants._story)[-8:]]
        raise AssertionError(
            f"not at rest {CONVERGE:g} virtual seconds after the last fault: {told or 'it keeps writing'}\n    "
            + "\n    ".join(still)
        )
    await invariants.check_rest()
    told = list(spoiled(plane.server))
    assert not told, "the watch cache and the store differ:\n    " + "\n    ".join(told[:10])


def spoiled(server: ApiServer | None) -> Iterator[str]:
    """Objects that somebody changed after they were stored, or that were stored in another form than a client's JSON
    would have: parts of one process hand each other objects, and nothing but this sees whether they keep to that."""
    assert server is not None
    for cache in {id(registry.cache): registry.cache for registry in server.registries()}.values():
        for entry in cache.entries.values():
            if cache.form.value(entry.object) != entry.value:
                yield f"{entry.key} was changed in the cache"
            if cache.form.value(codec.decode(cache.form.type, entry.value)) != entry.value:
                yield f"{entry.key} is not in its normal form: {entry.value.decode()}"


def _harm_nodes(faults: Faults, draw: random.Random, now: float) -> None:
    """Some runs lose a node, or find one cut off or with a clock that is wrong."""
    for _ in range(draw.choice((0, 1, 2))):
        kind = draw.choice((faults.lose_node, faults.partition))
        kind(at=now + draw.uniform(0, 60), down=draw.choice((20.0, 70.0, 400.0)))
    if draw.random() < 0.3:
        faults.drift(draw.choice((-45.0, -3.0, 3.0, 45.0)), at=now + draw.uniform(0, 60))


def wrong(invariants: Invariants) -> Iterator[str]:
    """What is not yet as it was asked for."""
    world = invariants.world
    for rs in world.all("replicasets"):
        active = [pod for pod in world.owned(rs.metadata.uid) if is_active(pod)]
        if len(active) != (rs.spec.replicas or 0):
            yield f"replica set {rs.metadata.name} has {len(active)} pods of {rs.spec.replicas}"
    for deployment in world.all("deployments"):
        sets = world.owned(deployment.metadata.uid, "replicasets")
        pods = [pod for rs in sets for pod in world.owned(rs.metadata.uid) if is_active(pod)]
        yield from _as_asked("deployment", deployment, pods, deployment.spec.replicas or 0)
        if (deployment.status.updatedReplicas or 0) != (deployment.spec.replicas or 0):
            yield f"deployment {deployment.metadata.name} tells of {deployment.status.updatedReplicas} updated pods"
    for stateful in world.all("statefulsets"):
        yield from _as_asked("stateful set", stateful, world.owned(stateful.metadata.uid), stateful.spec.replicas or 0)
        pods = world.owned(stateful.metadata.uid)
        names = {f"{stateful.metadata.name}-{ordinal}" for ordinal in range(stateful.spec.replicas or 0)}
        if {pod.metadata.name for pod in pods} != names:
            yield f"stateful set {stateful.metadata.name} has {[pod.metadata.name for pod in pods]}"
    nodes = {node.metadata.name for node in world.all("nodes")}
    for daemons in world.all("daemonsets"):
        pods = world.owned(daemons.metadata.uid)
        if {pod.spec.nodeName for pod in pods} != nodes or len(pods) != len(nodes) or not all(map(is_ready, pods)):
            yield f"daemon set {daemons.metadata.name} is on {[pod.spec.nodeName for pod in pods]}"
        told = (daemons.status.numberReady or 0, daemons.status.updatedNumberScheduled or 0)
        if told != (len(nodes), len(nodes)):
            yield f"daemon set {daemons.metadata.name} tells of {daemons.status.numberReady} ready pods"
    for job in world.all("jobs"):
        yield from _job(world, job)
    for pod in world.all("pods"):
        if is_active(pod) and not is_ready(pod):
            yield f"pod {pod.metadata.name} is {pod.status.phase}, not ready"
    for node in world.all("nodes"):
        if not any(c.type == "Ready" and c.status == "True" for c in node.status.conditions or ()):
            yield f"node {node.metadata.name} is not ready"
        if node.spec.taints:
            yield f"node {node.metadata.name} is tainted"
    yield from _budgets(world)
    yield from _endpoints(world)
    for key, (_, value) in world.values.items():
        if "/namespaces/" in key and json.loads(value)["metadata"].get("deletionTimestamp"):
            yield f"{key} is being deleted"


def _budgets(world: World) -> Iterator[str]:
    for budget in world.all("poddisruptionbudgets"):
        matches, status = selector_of(budget.spec.selector).matches, budget.status
        pods = [pod for pod in world.all("pods") if pod.metadata.namespace == budget.metadata.namespace]
        healthy = sum(is_serving(pod) for pod in pods if matches(pod.metadata.labels or {}))
        told = (status.currentHealthy or 0, status.disruptionsAllowed or 0)
        if told != (healthy, max(0, healthy - (status.desiredHealthy or 0))) or status.disruptedPods:
            yield f"budget {budget.metadata.name} tells of {told} with {healthy} healthy, {status.disruptedPods}"


def _endpoints(world: World) -> Iterator[str]:
    """Every Service leads to the pods that serve, and to no others."""
    slices: dict[tuple[str, str], set[str]] = {}
    services: dict[tuple[str, str], dict[str, str]] = {}
    for key, (_, value) in world.values.items():
        if "/endpointslices/" not in key and "/services/specs/" not in key:
            continue
        obj = json.loads(value)
        namespace = obj["metadata"]["namespace"]
        if namespace not in STAYING:
            continue
        if "/services/specs/" in key:
            services[namespace, obj["metadata"]["name"]] = obj["spec"]["selector"]
            continue
        ready = slices.setdefault((namespace, obj["metadata"]["labels"]["kubernetes.io/service-name"]), set())
        for endpoint in obj.get("endpoints") or ():
            if endpoint["conditions"].get("ready"):
                ready.update(endpoint["addresses"])
    for (namespace, name), selector in services.items():
        wanted = {
            pod.status.podIP
            for pod in world.all("pods")
            if pod.metadata.namespace == namespace and is_serving(pod)
            and selector.items() <= (pod.metadata.labels or {}).items()
        }  # fmt: skip
        if slices.get((namespace, name), set()) != wanted:
            yield f"service {name} leads to {slices.get((namespace, name))}, not {wanted}"


def _as_asked(what: str, owner: Any, pods: list[Any], size: int) -> Iterator[str]:
    name, status = owner.metadata.name, owner.status
    image = owner.spec.template.spec.containers[0].image
    images = [pod.spec.containers[0].image for pod in pods]
    if images != [image] * size:
        yield f"{what} {name} runs {images}, not {size} of {image}"
    for field_ in ("replicas", "readyReplicas", "availableReplicas"):
        if (getattr(status, field_) or 0) != size:
            yield f"{what} {name} tells of {getattr(status, field_)} {field_} of {size}"
    if (status.observedGeneration or 0) != (owner.metadata.generation or 0):
        yield f"{what} {name} has not seen its generation {owner.metadata.generation}"


def _job(world: Any, job: Any) -> Iterator[str]:
    name, status = job.metadata.name, job.status
    pods = world.owned(job.metadata.uid)
    if not finished(job):
        yield f"job {name} is not finished"
        return
    complete = any(c.type == "Complete" and c.status == "True" for c in status.conditions or ())
    if complete and (status.succeeded or 0) != (job.spec.completions or 1):
        yield f"job {name} is complete with {status.succeeded} of {job.spec.completions}"
    if status.active:
        yield f"job {name} is finished with {status.active} active pods"
    if any(is_active(pod) for pod in pods):
        yield f"job {name} is finished and has active pods"
    if any(finalizer for pod in pods for finalizer in pod.metadata.finalizers or ()):
        yield f"pods of job {name} keep their finalizers"


def _leaves_nothing(tasks: set[asyncio.Task[Any]]) -> None:
    left = [task.get_name() for task in tasks if task is not asyncio.current_task()]
    assert not left, f"tasks left behind: {left[:5]}"
