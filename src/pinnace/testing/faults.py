"""Faults on demand: what goes wrong between a component and the API server, by rule or drawn from a seed.

`Faults.wrap` lies between each component and the server (`ControlPlane`'s `wrap`), `Faults.store` between the server
and its store, `Faults.attach` makes known what can be killed or cut off. A fault is what the real thing would do: a
`Status` as the server sends it, a connection that is reset or refused, a watch that ends; never an exception inside
a component's own code. While there is no rule, or after `stop`, requests go straight through.

```python
faults = Faults(Randomness(7))
faults.conflict(kind="deployments", name="web", times=1)
faults.lose_reply(component="kube-scheduler", kind="pods/binding", probability=0.1)
faults.crash_after_commit(kind="jobs", verb="create", times=1, down=3)
```
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from pinnace.api import errors
from pinnace.apiserver import responses
from pinnace.apiserver.paths import Target, parse, verb_of
from pinnace.apiserver.watching import error_line
from pinnace.base.randomness import Randomness
from pinnace.client.transport import DirectWatch, Request, Response, Transport, WatchLine
from pinnace.store.over import StoreOver
from pinnace.store.store import Cause, Store
from pinnace.testing.fault_rules import Done, Rule, kinds_named
from pinnace.testing.watch_faults import DirectUnderRules

_LOGGED = 2000                 # faults that the log remembers; older ones are forgotten
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_REVISED = frozenset({"update", "patch", "delete"})
_EXPIRED_LIST = (
    "The provided continue parameter is too old to display a consistent list result. "
    "You can start a new list without the continue parameter."
)


class Plane(Protocol):
    """What a crash needs of a control plane."""

    def kill(self, *, restart_after: float | None = None) -> None: ...


class Nodes(Protocol):
    """What faults of nodes need of `SimulatedNodes`."""

    @property
    def names(self) -> Sequence[str]: ...

    def lose(self, name: str) -> None: ...

    def restore(self, name: str) -> None: ...

    def partition(self, name: str) -> None: ...

    def heal(self, name: str) -> None: ...

    def drift(self, name: str, seconds: float) -> None: ...


@dataclass(slots=True)
class _Doom:
    """The server is to die at the commit of the request under way."""

    rule: Rule
    done: Done
    over: bool = False      # tasks that were started meanwhile inherit it


_DOOM: ContextVar[_Doom | None] = ContextVar("doom", default=None)


class Faults:
    """All faults of one cluster. Deterministic: the same rules, requests and randomness give the same faults.

    Each method adds a rule and returns it. Filters, all optional: `component` ("kube-controller-manager",
    "kube-controller-manager/job-controller", "kube-scheduler", "kubelet", "user"), `verb` (as RBAC's), `kind` (as
    kubectl's, perhaps with a subresource: "deploy", "pods/binding"), `namespace`, `name` (of the request's path; a
    create has none), `probability`, `skip`, `times`, `after` and `until` (seconds of the loop's time).
    """

    def __init__(self, randomness: Randomness) -> None:
        self.rules: list[Rule] = []
        self.log: deque[Done] = deque(maxlen=_LOGGED)
        self.counts: dict[str, int] = {}
        self._randomness = randomness
        self._plane: Plane | None = None
        self.nodes: Nodes | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._undo: dict[str, Callable[[], None]] = {}
        self._direct: dict[DirectUnderRules, None] = {}      # watches that are to know when there is a rule

    # --------------------------------------------------------------------------------------------------- rules

    def conflict(self, **where: Any) -> Rule:
        """409: somebody else was quicker. Nothing is written. Meets updates, patches and deletions."""
        return self._add("conflict", where)

    def lose_reply(self, **where: Any) -> Rule:
        """The server does it, and the caller gets ConnectionResetError instead of the answer."""
        return self._add("lose_reply", where)

    def slow(self, seconds: float, **where: Any) -> Rule:
        """The answer is held back so long; with verb="watch", each batch of events."""
        return self._add("slow", where, seconds=seconds)

    def too_many_requests(self, retry_after: float = 1, **where: Any) -> Rule:
        """429 with a Retry-After of whole seconds. Nothing is done."""
        return self._add("too_many_requests", where, seconds=retry_after)

    def gone(self, **where: Any) -> Rule:
        """410 Expired, for a watch (as its only event) or the continuation of a list: history is compacted."""
        return self._add("gone", where)

    def cut_watch(self, *, clean: bool | None = None, **where: Any) -> Rule:
        """A watch ends when it was to hand out its next events, which are lost with it: `clean`, or by
        ConnectionResetError; left open, that is drawn each time."""
        return self._add("cut_watch", {"verb": "watch", **where}, clean=clean)

    def refuse(self, **where: Any) -> Rule:
        """ConnectionRefusedError; the server hears nothing of it."""
        return self._add("refuse", where)

    def crash_before_commit(self, *, down: float = 1.0, **where: Any) -> Rule:
        """The server dies when the store is about to commit the write. It starts again after `down` seconds."""
        return self._add("crash_before_commit", where, seconds=down)

    def crash_after_commit(self, *, down: float = 1.0, **where: Any) -> Rule:
        """The server dies when the store has committed the write: it is there, but nobody has been told."""
        return self._add("crash_after_commit", where, seconds=down)

    def lose_node(self, name: str = "", *, at: float = 0.0, down: float | None = None) -> None:
        """At `at` (loop's time) a node's machine is gone, for `down` seconds or for good. No name: drawn."""
        self._of_node("lose_node", name, at, down, lambda nodes: (nodes.lose, nodes.restore))

    def partition(self, name: str = "", *, at: float = 0.0, down: float | None = None) -> None:
        """From `at` on a node cannot reach the server; its containers go on."""
        self._of_node("partition", name, at, down, lambda nodes: (nodes.partition, nodes.heal))

    def drift(self, seconds: float, name: str = "", *, at: float = 0.0, down: float | None = None) -> None:
        """From `at` on a node's clock is off by so many seconds (negative: behind)."""
        self._of_node(
            "drift", name, at, down,
            lambda nodes: (lambda n: nodes.drift(n, seconds), lambda n: nodes.drift(n, 0.0)),
        )  # fmt: skip

    @classmethod
    def drawn(cls, randomness: Randomness, *, rate: float = 0.02, after: float = 0.0, crashes: int = 2) -> Faults:
        """A bit of everything: of all requests about `rate` meet some fault; crashes are rarer, and at most
        `crashes` before and after a commit each."""
        faults = cls(randomness)
        faults.draw(rate=rate, after=after, crashes=crashes)
        return faults

    def draw(self, *, rate: float = 0.02, after: float = 0.0, crashes: int = 2, spare: str = "") -> None:
        """Add what `drawn` has; a component named by `spare` meets nothing but the crashes that others cause."""
        randomness, faults = self._randomness, self
        few: dict[str, Any] = {"probability": rate / 5, "after": after, "spare": spare}
        faults.conflict(**few)
        faults.lose_reply(**few)
        faults.too_many_requests(retry_after=1, **few)
        faults.refuse(**few)
        faults.slow(randomness.uniform(0.05, 3.0), **few)
        faults.slow(randomness.uniform(0.05, 1.5), verb="watch", **few)
        faults.cut_watch(**few)
        faults.gone(probability=rate, after=after, spare=spare)
        rare: dict[str, Any] = {"probability": rate / 50, "after": after, "times": crashes, "spare": spare}
        faults.crash_before_commit(down=randomness.uniform(0.2, 8.0), **rare)
        faults.crash_after_commit(down=randomness.uniform(0.2, 8.0), **rare)

    def stop(self) -> None:
        """End all faults: no rule is left, nodes are restored and healed; what is held back still comes late."""
        self.rules.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for undo in tuple(self._undo.values()):
            undo()
        self._undo.clear()

    def _add(self, fault: str, where: Mapping[str, Any], **how: Any) -> Rule:
        given = dict(where)
        kinds, subresource = kinds_named(str(given.pop("kind", "")))
        rule = Rule(fault, kinds=kinds, subresource=subresource, **given, **how)
        self.rules.append(rule)
        for watch in self._direct:
            watch.attend()
        self._direct.clear()
        return rule

    def unruled(self, watch: DirectUnderRules) -> None:
        """Let a watch know when there are rules."""
        self._direct[watch] = None

    def ended(self, watch: DirectUnderRules) -> None:
        self._direct.pop(watch, None)

    # ------------------------------------------------------------------------------------------- where it lies

    def attach(self, plane: Plane | None = None, nodes: Nodes | None = None) -> None:
        """Make known what crashes, and which nodes can be lost."""
        self._plane = plane or self._plane
        self.nodes = nodes or self.nodes

    def wrap(self, transport: Transport, component: str) -> Transport:
        """For `ControlPlane`'s `wrap`."""
        return _Between(transport, component, self)

    def store(self, store: Store) -> Store:
        """The store as a server should get it that is to crash at a commit."""
        return _Doomed(store, self)

    # ------------------------------------------------------------------------------------------------ at work

    def meeting(self, faults: frozenset[str], component: str, agent: str, verb: str, target: Target) -> Rule | None:
        """The first rule for one of these faults that meets the request, by its filters and by chance. A rule of a
        crash is not used up yet."""
        now = asyncio.get_running_loop().time()
        for rule in self.rules:
            if rule.fault not in faults or not rule.open(now):
                continue
            if not rule.matches(component, agent, verb, target):
                continue
            if rule.probability < 1.0 and self._randomness.uniform(0.0, 1.0) >= rule.probability:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            return rule
        return None

    def done(self, rule: Rule, done: Done) -> None:
        if rule.times is not None:
            rule.times -= 1
        self._record(done)

    def _record(self, done: Done) -> None:
        self.log.append(done)
        self.counts[done.fault] = self.counts.get(done.fault, 0) + 1

    def coin(self) -> bool:
        return self._randomness.below(2) == 0

    def crash(self, doom: _Doom) -> None:
        """The server dies now."""
        if self._plane is None:
            raise RuntimeError("faults that crash the server need Faults.attach(control_plane)")
        self.done(doom.rule, doom.done)
        self._plane.kill(restart_after=doom.rule.seconds)

    def _of_node(
        self, fault: str, name: str, at: float, down: float | None,
        verbs: Callable[[Nodes], tuple[Callable[[str], None], Callable[[str], None]]],
    ) -> None:
        loop = asyncio.get_running_loop()

        def begin() -> None:
            if self.nodes is None:
                raise RuntimeError("faults of nodes need Faults.attach(nodes=…)")
            names = self.nodes.names
            node = name or names[self._randomness.below(len(names))]
            do, undo = verbs(self.nodes)
            key = f"{fault} {node}"
            do(node)
            self._record(Done(loop.time(), fault, "kubelet", "", node))
            self._undo[key] = lambda: undo(node)
            if down is not None:
                self._timers.append(loop.call_later(down, end, key))

        def end(key: str) -> None:
            undo = self._undo.pop(key, None)
            if undo is not None:
                undo()

        self._timers.append(loop.call_at(max(at, loop.time()), begin))


_BEFORE = frozenset({"refuse", "too_many_requests", "conflict", "gone"})
_AROUND = frozenset({"lose_reply", "slow"})
_CRASHES = frozenset({"crash_before_commit", "crash_after_commit"})
_STREAMS = frozenset({"cut_watch", "slow"})


@dataclass(eq=False, slots=True)
class _Between:
    """Lies between one component and the server."""

    inner: Transport
    component: str
    faults: Faults

    async def close(self) -> None:
        await self.inner.close()

    def send(self, request: Request) -> Coroutine[Any, Any, Response]:
        if self.faults.rules:
            return self._ruled(request)
        return self._open(request) if request.method == "GET" else self.inner.send(request)

    async def _ruled(self, request: Request) -> Response:
        target = parse(request.path)
        if target is None:
            return await self.inner.send(request)
        verb = verb_of(request.method, target, request.query.get("watch", ("",))[0] in ("true", "1"))
        agent = request.headers.get("user-agent", "")
        answer = self._instead(request, agent, verb, target)
        if answer is not None:
            return answer
        if verb == "watch":
            return self._stream(await self.inner.send(request), agent, request, target)
        around = self.faults.meeting(_AROUND, self.component, agent, verb, target)
        response = await self._sent(request, agent, verb, target)
        if around is not None:
            self._tell(around, agent, verb, request.path)
            if around.fault == "lose_reply":
                raise ConnectionResetError("connection reset by peer")
            await asyncio.sleep(around.seconds)
        return response

    async def _open(self, request: Request) -> Response:
        """Without rules now; but a watch that begins now may be met by a later rule."""
        response = await self.inner.send(request)
        if response.watch is not None and (target := parse(request.path)) is not None:
            return self._stream(response, request.headers.get("user-agent", ""), request, target)
        return response

    def _instead(self, request: Request, agent: str, verb: str, target: Target) -> Response | None:
        """What comes in the server's place; raises ConnectionRefusedError."""
        faults = set(_BEFORE)
        if verb not in _REVISED or not target.name:
            faults.discard("conflict")
        if verb != "watch" and not (verb == "list" and "continue" in request.query):
            faults.discard("gone")
        rule = self.faults.meeting(frozenset(faults), self.component, agent, verb, target)
        if rule is None:
            return None
        self._tell(rule, agent, verb, request.path)
        accept = request.headers.get("accept", "")
        match rule.fault:
            case "refuse":
                raise ConnectionRefusedError("connection refused")
            case "too_many_requests":
                text, seconds = "Too many requests, please try again later.", max(1, round(rule.seconds))
                return responses.failure(errors.TooManyRequests.retry(text, seconds), accept)
            case "conflict":
                return responses.failure(errors.Conflict.of(target.resource, target.group, target.name), accept)
            case _ if verb == "watch":
                revision = request.query.get("resourceVersion", ("0",))[0]
                error = errors.Expired(f"too old resource version: {revision} ({int(revision or 0) + 1})")
                return Response(200, {"content-type": "application/json"}, watch=_only(error_line(error)))
            case _:
                return responses.failure(errors.Expired(_EXPIRED_LIST), accept)

    async def _sent(self, request: Request, agent: str, verb: str, target: Target) -> Response:
        rule = None
        if verb in _WRITES:
            rule = self.faults.meeting(_CRASHES, self.component, agent, verb, target)
        if rule is None:
            return await self.inner.send(request)
        doom = _Doom(rule, self._about(rule, agent, verb, request.path))
        token = _DOOM.set(doom)
        try:
            return await self.inner.send(request)
        finally:
            doom.over = True
            _DOOM.reset(token)

    def _stream(self, response: Response, agent: str, request: Request, target: Target) -> Response:
        if response.watch is not None:
            followed = self._followed(response.watch, agent, request.path, target)
            if isinstance(response.watch, DirectWatch) and not self.faults.rules:
                response.watch = DirectUnderRules(
                    response.watch, followed, self.faults, lambda: self._met(agent, request.path, target), self._clean
                )
            else:
                response.watch = followed
        return response

    def _clean(self, rule: Rule) -> bool:
        """How a cut looks."""
        return self.faults.coin() if rule.clean is None else rule.clean

    def _met(self, agent: str, path: str, target: Target) -> Rule | None:
        """The rule that meets an event of a stream."""
        if not self.faults.rules:
            return None
        rule = self.faults.meeting(_STREAMS, self.component, agent, "watch", target)
        if rule is not None:
            self._tell(rule, agent, "watch", path)
        return rule

    async def _followed(
        self, batches: AsyncIterator[tuple[WatchLine, ...]], agent: str, path: str, target: Target
    ) -> AsyncGenerator[tuple[WatchLine, ...], None]:
        try:
            async for batch in batches:
                rule = self._met(agent, path, target)
                if rule is not None:
                    if rule.fault == "slow":
                        await asyncio.sleep(rule.seconds)
                    elif self._clean(rule):
                        return
                    else:
                        raise ConnectionResetError("connection reset by peer")
                yield batch
        finally:
            close = getattr(batches, "aclose", None)
            if close is not None:
                await close()

    def _about(self, rule: Rule, agent: str, verb: str, path: str) -> Done:
        who = agent if agent.startswith(self.component) else self.component
        return Done(asyncio.get_running_loop().time(), rule.fault, who, verb, path)

    def _tell(self, rule: Rule, agent: str, verb: str, path: str) -> None:
        self.faults.done(rule, self._about(rule, agent, verb, path))


class _Doomed(StoreOver):
    """A store whose server may die at a commit."""

    def __init__(self, inner: Store, faults: Faults) -> None:
        super().__init__(inner)
        self.faults = faults

    def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> Coroutine[Any, Any, int]:
        doom = _DOOM.get()
        if doom is None or doom.over:
            return self.inner.commit(key, value, expect=expect, cause=cause)
        return self._die(doom, key, value, expect, cause)

    async def _die(self, doom: _Doom, key: str, value: bytes | None, expect: int | None, cause: Cause | None) -> int:
        doom.over = True
        if doom.rule.fault == "crash_before_commit":
            self.faults.crash(doom)
        else:
            await self.inner.commit(key, value, expect=expect, cause=cause)
            self.faults.crash(doom)
        # The caller is cut off at this very await.
        cut: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await cut


async def _only(line: WatchLine) -> AsyncGenerator[tuple[WatchLine, ...], None]:
    yield (line,)
