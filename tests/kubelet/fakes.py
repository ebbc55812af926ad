"""A small API server and runtime in memory: what the kubelet's tests need of them, and no more."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.client.client import Client
from pinnace.client.transport import Request, Response, WatchLine
from pinnace.runtime.cri import (
    Container,
    ContainerSpec,
    ContainerState,
    ExecResult,
    Image,
    ImagePullFault,
    NotFound,
    Resources,
    RuntimeEvent,
    RuntimeFault,
    Sandbox,
    SandboxSpec,
    SandboxState,
)

Key = tuple[str, str, str]       # collection path without the namespace, namespace, name


def make_pod(name: str = "web", uid: str = "", **spec: Any) -> core.Pod:
    """A pod bound to node-1; without `containers` one that runs `app`."""
    spec.setdefault("containers", [{"name": "app", "image": "app:1"}])
    spec.setdefault("nodeName", "node-1")
    spec.setdefault("enableServiceLinks", True)
    meta = {"name": name, "namespace": "default", "uid": uid or f"uid-{name}", "generation": 1}
    return msgspec.convert({"metadata": meta, "spec": spec}, core.Pod)


class FakeApi:
    """A Transport over dictionaries; strategic patches merge conditions by type."""

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.revision = 0
        self.away = False
        self.requests: list[tuple[str, str]] = []
        self._watchers: list[tuple[str, str, Mapping[str, str], asyncio.Queue[WatchLine]]] = []

    def client(self) -> Client:
        return Client(self)

    async def close(self) -> None: ...

    def put(self, path: str, namespace: str, obj: Any, type: str = "") -> dict[str, Any]:
        data = copy.deepcopy(obj) if isinstance(obj, dict) else msgspec.to_builtins(obj)
        key = (path, namespace, data["metadata"]["name"])
        self.revision += 1
        if namespace:
            data["metadata"]["namespace"] = namespace
        data["metadata"]["resourceVersion"] = str(self.revision)
        data["metadata"].setdefault("uid", f"uid-{self.revision}")
        event = type or ("MODIFIED" if key in self.objects else "ADDED")
        if event == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = data
        line = json.dumps({"type": event, "object": data}).encode() + b"\n"
        for wanted, space, fields, queue in self._watchers:
            if wanted == path and space in ("", namespace) and _fits(data, fields):
                queue.put_nowait(WatchLine(event, None, line))
        return data

    def add_pod(self, pod: core.Pod) -> core.Pod:
        return msgspec.convert(self.put("/api/v1/pods", "default", pod), core.Pod)

    def pod(self, name: str = "web") -> core.Pod | None:
        found = self.objects.get(("/api/v1/pods", "default", name))
        return msgspec.convert(found, core.Pod) if found else None

    def delete_pod(self, name: str, grace: int) -> None:
        data = copy.deepcopy(self.objects["/api/v1/pods", "default", name])
        data["metadata"] |= {"deletionTimestamp": "2026-03-01T12:00:00Z", "deletionGracePeriodSeconds": grace}
        self.put("/api/v1/pods", "default", data, "DELETED" if grace == 0 else "")

    def events(self) -> list[tuple[str, str, str]]:
        return [
            (o["type"], o["reason"], o["message"]) for (path, _, _), o in self.objects.items()
            if path.endswith("/events")
        ]  # fmt: skip

    def messages(self) -> set[str]:
        return {message for _, _, message in self.events()}

    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events()]

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError("the API server is away")
        self.requests.append((request.method, request.path))
        parts = request.path.strip("/").split("/")
        root = 2 if parts[0] == "api" else 3
        rest = parts[root:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        path = "/" + "/".join([*parts[:root], rest[0]])
        fields = dict(pair.split("=") for pair in request.query.get("fieldSelector", ("",))[0].split(",") if pair)
        name = rest[1] if len(rest) > 1 else ""
        if request.method == "GET" and not name:
            if "watch" in request.query:
                return Response(200, watch=self._watch(path, namespace, fields))
            items = [
                o for (p, ns, _), o in self.objects.items() if p == path and namespace in ("", ns) and _fits(o, fields)
            ]
            body = {"kind": "List", "metadata": {"resourceVersion": str(self.revision)}, "items": items}
            return Response(200, body=json.dumps(body).encode())
        return self._one(request, path, namespace, name, rest[2] if len(rest) > 2 else "")

    def _one(self, request: Request, path: str, namespace: str, name: str, subresource: str) -> Response:
        body = json.loads(request.text()) if request.text() else {}
        key = (path, namespace, name)
        if subresource == "token":
            body["status"] = {"token": f"token-{len(self.requests)}", "expirationTimestamp": "2026-03-01T13:00:00Z"}
            return Response(201, body=json.dumps(body).encode())
        if request.method == "POST":
            if (path, namespace, body["metadata"]["name"]) in self.objects:
                return _status(409, "AlreadyExists")
            return Response(201, body=json.dumps(self.put(path, namespace, body)).encode())
        if key not in self.objects:
            return _status(404, "NotFound")
        now = self.objects[key]
        if request.method == "GET":
            return Response(200, body=json.dumps(now).encode())
        if request.method == "DELETE":
            uid = body.get("preconditions", {}).get("uid")
            if uid and uid != now["metadata"]["uid"]:
                return _status(409, "Conflict")
            self.put(path, namespace, now, "DELETED")
            return Response(200, body=b'{"kind": "Status", "status": "Success"}')
        if request.method == "PUT":
            return Response(200, body=json.dumps(self.put(path, namespace, body)).encode())
        if body.get("metadata", {}).get("uid", now["metadata"]["uid"]) != now["metadata"]["uid"]:
            return _status(409, "Conflict")
        return Response(200, body=json.dumps(self.put(path, namespace, _merge(now, body))).encode())

    async def _watch(
        self, path: str, namespace: str, fields: Mapping[str, str]
    ) -> AsyncIterator[tuple[WatchLine, ...]]:
        queue: asyncio.Queue[WatchLine] = asyncio.Queue()
        entry = (path, namespace, fields, queue)
        self._watchers.append(entry)
        try:
            while True:
                yield (await queue.get(),)
        finally:
            self._watchers.remove(entry)


def _status(code: int, reason: str) -> Response:
    status = {"kind": "Status", "reason": reason, "code": code, "message": reason}
    return Response(code, body=json.dumps(status).encode())


def _fits(obj: Mapping[str, Any], fields: Mapping[str, str]) -> bool:
    for field, value in fields.items():
        found: Any = obj
        for part in field.split("."):
            found = (found or {}).get(part)
        if found != value:
            return False
    return True


def _merge(old: Any, patch: Any) -> Any:
    if isinstance(patch, dict) and isinstance(old, dict):
        out = dict(old)
        for key, value in patch.items():
            if value is None:
                out.pop(key, None)
            elif key == "conditions":
                known = {c["type"]: c for c in old.get(key, [])}
                for c in value:
                    if c.get("$patch") == "delete":
                        known.pop(c["type"], None)
                        continue
                    known[c["type"]] = {k: v for k, v in {**known.get(c["type"], {}), **c}.items() if v is not None}
                out[key] = list(known.values())
            elif isinstance(value, list):
                out[key] = [item for item in value if item != {"$patch": "replace"}]
            else:
                out[key] = _merge(old.get(key, {}), value)
        return out
    return patch


class FakeImages:
    def __init__(self) -> None:
        self.present = {"app:1": Image("sha256:aa", ("app:1",), ("app@sha256:bb",), 1000, "")}
        self.pulled: list[str] = []
        self.fault: ImagePullFault | None = None
        self.pulling: asyncio.Event | None = None

    async def pull(self, reference: str, *, auth: Mapping[str, str] | None = None) -> Image:
        self.pulled.append(reference)
        if self.pulling is not None:
            await self.pulling.wait()
        if self.fault is not None:
            raise self.fault
        image = self.present[reference] = Image("sha256:cc", (reference,), (), 10, "")
        return image

    async def status(self, reference: str) -> Image | None:
        return next((i for r, i in self.present.items() if reference in (r, i.id)), None)

    async def images(self) -> tuple[Image, ...]:
        return tuple(self.present.values())

    async def load(self, path: str) -> tuple[Image, ...]:
        return ()

    async def remove(self, reference: str) -> None:
        self.present.pop(reference, None)

    async def usage(self) -> tuple[int, int]:
        return 0, 0


class FakeRuntime:
    """Containers that run until told to exit. `life` gives (seconds, exit code) by container name; `heeds` how
    long they take to obey a stop."""

    version = "fake://1"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.images = FakeImages()
        self.boxes: dict[str, Sandbox] = {}
        self.specs: dict[str, ContainerSpec] = {}
        self.cells: dict[str, Container] = {}
        self.life: dict[str, tuple[float, int]] = {}
        self.heeds = 0.0
        self.start_fault: str = ""
        self.log: list[str] = []
        self.execs: list[tuple[str, tuple[str, ...]]] = []
        self.exec_result = ExecResult(0, b"", b"")
        self._ids = itertools.count(1)
        self._queues: list[asyncio.Queue[RuntimeEvent]] = []
        self._ends: dict[str, asyncio.Event] = {}

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _publish(self, kind: str, sandbox: str, container: str = "") -> None:
        for queue in self._queues:
            queue.put_nowait(RuntimeEvent(kind, sandbox, container))

    async def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        id = f"box-{next(self._ids)}"
        netns = "" if spec.host_network else f"/netns/{id}"
        self.boxes[id] = Sandbox(
            id, spec.identity, SandboxState.READY, self._now(), netns, spec.labels, spec.annotations
        )
        self.log.append(f"sandbox {spec.identity.name}/{spec.identity.attempt}")
        return self.boxes[id]

    async def set_sandbox_ips(self, sandbox: str, ips: tuple[str, ...]) -> None:
        self.boxes[sandbox] = replace(self.boxes[sandbox], ips=ips)

    async def stop_sandbox(self, sandbox: str) -> None:
        if sandbox in self.boxes:
            self.log.append(f"stop {sandbox}")
            self.boxes[sandbox] = replace(self.boxes[sandbox], state=SandboxState.NOTREADY)
            for cell in list(self.cells.values()):
                if cell.sandbox_id == sandbox:
                    self.exit(cell.id, 137)

    async def remove_sandbox(self, sandbox: str) -> None:
        await self.stop_sandbox(sandbox)
        self.boxes.pop(sandbox, None)
        self.cells = {id: c for id, c in self.cells.items() if c.sandbox_id != sandbox}
        self.log.append(f"remove {sandbox}")

    async def sandboxes(self) -> tuple[Sandbox, ...]:
        return tuple(self.boxes.values())

    async def create(self, sandbox: str, spec: ContainerSpec) -> str:
        id = f"{spec.name}-{next(self._ids)}"
        self.specs[id] = spec
        self.cells[id] = Container(
            id, sandbox, spec.name, spec.attempt, ContainerState.CREATED, spec.image, "sha256:aa", self._now(), 0.0,
            0.0, 0, "", "", 0, spec.labels, spec.annotations, f"/logs/{spec.log_path}",
        )  # fmt: skip
        return id

    async def start(self, container: str) -> None:
        cell = self.cells[container]
        if self.start_fault:
            self.cells[container] = replace(
                cell, state=ContainerState.EXITED, exit_code=128, reason="StartError", message=self.start_fault,
                finished_at=self._now(),
            )  # fmt: skip
            raise RuntimeFault(self.start_fault)
        self.cells[container] = replace(cell, state=ContainerState.RUNNING, started_at=self._now(), pid=1)
        self._ends[container] = asyncio.Event()
        self.log.append(f"start {cell.name}/{cell.attempt}")
        if cell.name in self.life:
            seconds, code = self.life[cell.name]
            asyncio.get_running_loop().call_later(seconds, self.exit, container, code)
        self._publish("started", cell.sandbox_id, container)

    def exit(self, container: str, code: int, reason: str = "") -> None:
        cell = self.cells.get(container)
        if cell is None or cell.state is not ContainerState.RUNNING:
            return
        self.cells[container] = replace(
            cell, state=ContainerState.EXITED, exit_code=code, finished_at=self._now(), pid=0,
            reason=reason or ("Completed" if code == 0 else "Error"),
        )  # fmt: skip
        self._ends[container].set()
        self.log.append(f"exit {cell.name}/{cell.attempt} {code}")
        self._publish("stopped", cell.sandbox_id, container)

    def running(self, name: str) -> Container | None:
        return next((c for c in self.cells.values() if c.name == name and c.state is ContainerState.RUNNING), None)

    async def stop(self, container: str, *, grace: float) -> None:
        cell = self.cells.get(container)
        if cell is None or cell.state is not ContainerState.RUNNING:
            return
        self.log.append(f"term {cell.name} {grace:.0f}")
        ended = self._ends[container]
        try:
            async with asyncio.timeout(min(grace, self.heeds)):
                await ended.wait()
        except TimeoutError:
            self.exit(container, 143 if self.heeds <= grace else 137)

    async def remove(self, container: str) -> None:
        self.exit(container, 137)
        self.cells.pop(container, None)

    async def containers(self, sandbox: str | None = None) -> tuple[Container, ...]:
        return tuple(c for c in self.cells.values() if sandbox in (None, c.sandbox_id))

    async def container(self, container: str) -> Container:
        if container not in self.cells:
            raise NotFound(container)
        return self.cells[container]

    async def exec_sync(self, container: str, command: tuple[str, ...], *, timeout: float) -> ExecResult:
        self.execs.append((container, command))
        return self.exec_result

    async def reopen_log(self, container: str) -> None: ...

    async def update_resources(self, container: str, resources: Resources) -> None:
        self.log.append(f"update {container} {resources.cpu_quota} {resources.memory_limit}")

    async def update_sandbox_resources(self, sandbox: str, resources: Resources) -> None:
        self.log.append(f"update {sandbox} {resources.cpu_quota} {resources.memory_limit}")

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
        self._queues.append(queue)
        while True:
            yield await queue.get()


class FakeNetwork:
    def __init__(self) -> None:
        self.connected: dict[str, tuple[str, ...]] = {}
        self.fault = ""
        self._next = itertools.count(2)

    async def add(self, netns: str, sandbox_id: str, pod: str = "", host_ports: Any = ()) -> tuple[str, ...]:
        if self.fault:
            raise RuntimeError(self.fault)
        return self.connected.setdefault(sandbox_id, (f"127.9.0.{next(self._next)}",))

    async def remove(self, sandbox_id: str) -> None:
        self.connected.pop(sandbox_id, None)

    async def sweep(self, live: Any) -> list[str]:
        dead = [id for id in self.connected if id not in live]
        for id in dead:
            del self.connected[id]
        return dead

    async def check(self) -> str | None:
        return None


class FakeMounter:
    """Remembers what would be mounted."""

    def __init__(self) -> None:
        self.mounts: dict[str, tuple[str, str]] = {}

    def mount(self, source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
        self.mounts[target] = (kind or "bind", data)

    def unmount(self, target: str) -> None:
        self.mounts.pop(target, None)

    def mounted(self, below: str) -> list[str]:
        return sorted((t for t in self.mounts if t == below or t.startswith(below + "/")), key=len, reverse=True)
