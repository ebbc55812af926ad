"""The verbs that a test wants, on one API server, as kubectl has them.

Objects come back typed, and are the caller's own: to change one does not change the cluster. Refusals are the classes
of `pinnace.api.errors`. Seconds are the cluster's, virtual where its time is.
"""

from __future__ import annotations

import asyncio
import builtins
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal, cast

from pinnace.api import codec, errors, yaml
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resources.events import last_seen
from pinnace.base.clock import Clock
from pinnace.client.client import Client, ObjectList, PatchType, WatchEvent, object_path
from pinnace.client.transport import Response, User
from pinnace.testing import applying, conditions, manifests
from pinnace.testing.applying import own
from pinnace.testing.manifests import Manifest, Reference, in_order_of_need, refer, resolve
from pinnace.testing.story import Story, story

Kindly = str | type[Any]                       # a kind's type, or a word that kubectl understands for it
Propagation = Literal["", "Orphan", "Background", "Foreground"]

_RETRY = 1.0              # seconds of the cluster before a watch that broke is begun anew
_REMEMBERED = 3           # objects that the test named last, for the report of a failure
_BREAKS = (errors.Expired, errors.Gone, errors.TooManyRequests, errors.ServiceUnavailable, errors.ServerTimeout,
           errors.Timeout, errors.InternalError, ConnectionError)  # fmt: skip


class Verbs:
    """Verbs on a cluster as one user, in one namespace unless another is named.

    A `kind` is given by its type or by any word that kubectl understands: "pods", "po", "Pod", "deployments.apps".
    Where one object is meant, `"deploy", "web"` and `"deploy/web"` do, and so does an object that a verb gave.
    """

    def __init__(self, client: Client, clock: Clock, *, seed: int, unit: str) -> None:
        self.client = client
        self.clock = clock
        self.seed = seed
        self.namespace = "default"
        self.named: deque[Reference] = deque(maxlen=_REMEMBERED)
        self._unit = unit

    def as_user(self, name: str, *groups: str) -> Verbs:
        """The same cluster, asked by somebody else: what RBAC does not allow is Forbidden. A service account is
        `system:serviceaccount:NAMESPACE:NAME`."""
        user = User(name, groups=(*groups, *_groups_of(name), "system:authenticated"))
        other = Verbs(self.client.acting_as(self.client.agent, user), self.clock, seed=self.seed, unit=self._unit)
        other.namespace, other.named = self.namespace, self.named
        return other

    def now(self) -> datetime:
        """The cluster's time."""
        return self.clock.now()

    # ---------------------------------------------------------------------------------------------------- writing

    async def apply(self, *manifests: Manifest, namespace: str | None = None) -> builtins.list[Any]:
        """What `kubectl apply` does: create, or change to what is written now. What an earlier apply had and this
        one leaves out goes; what others wrote stays. Unknown fields are errors.

        Takes YAML text, paths of files and directories, mappings, typed objects. What others need is applied first,
        as helm does. Returns what the server made of each, in the order given.
        """
        return await self._each(applying.apply, manifests, namespace)

    async def create(self, *manifests: Manifest, namespace: str | None = None) -> list[Any]:
        """Like `apply`, but raises AlreadyExists for what is there."""
        return await self._each(applying.create, manifests, namespace)

    async def _each(self, verb: Callable[..., Any], given: tuple[Manifest, ...], namespace: str | None) -> list[Any]:
        documents = manifests.read(given, self._place(namespace))
        done = {id(document): await verb(self.client, document) for document in in_order_of_need(documents)}
        return [done[id(document)] for document in documents]

    async def update(self, obj: Any) -> Any:
        """Replace an object as a whole; raises Conflict if somebody has written since it was read."""
        kind, place, name = refer(obj, "", self.namespace)
        response = await self.client.call("PUT", object_path(kind, place, name), body=codec.encode(obj))
        return own(kind.type, response)

    async def patch(
        self, kind: Kindly, name: str, patch: Any, namespace: str | None = None, *, type: PatchType = "strategic",
        subresource: str = "",
    ) -> Any:
        """`patch` is what goes over the wire, as plain dicts and lists."""
        found, place, name = refer(kind, name, self._place(namespace))
        return codec.copy(
            await self.client.patch(found.type, name, place, patch, type=type, subresource=subresource)
        )

    async def scale(self, what: Any, name: str = "", namespace: str | None = None, *, replicas: int) -> Any:
        """Returns the object as it is then."""
        kind, place, name = refer(what, name, self._place(namespace))
        await self.client.call(
            "PATCH", object_path(kind, place, name, "scale"), body=b'{"spec":{"replicas":%d}}' % replicas,
            content_type="application/merge-patch+json",
        )
        return codec.copy(await self.client.get(kind.type, name, place))

    async def delete(
        self, what: Any, name: str = "", namespace: str | None = None, *, wait: bool = True,
        ignore_not_found: bool = False, grace_period: int | None = None, propagation: Propagation = "Background",
        timeout: float = 60.0,
    ) -> None:
        """Delete one object, or all of a manifest, and wait until they are gone. Raises NotFound, and TimeoutError
        for what is still there after `timeout` seconds."""
        references = self._references(what, name, self._place(namespace))
        for kind, place, each in references:
            try:
                await self.client.delete(kind.type, each, place, grace_period=grace_period, propagation=propagation)
            except errors.NotFound:
                if not ignore_not_found:
                    raise
        if wait:
            for reference in references:
                await self._until(reference, lambda obj: obj is None, "gone", timeout)

    def _references(self, what: Any, name: str, place: str) -> list[Reference]:
        manifest = isinstance(what, list | tuple | Mapping) or not (isinstance(what, type) or _is_object(what))
        if isinstance(what, str):
            manifest = not name and not ("/" in what and _is_word(what.partition("/")[0]))
        if not manifest:
            return [refer(what, name, place)]
        documents = in_order_of_need(manifests.read([what], place))
        return [Reference(each.kind, each.namespace, each.name) for each in reversed(documents)]

    # ---------------------------------------------------------------------------------------------------- reading

    async def get(self, kind: Any, name: str = "", namespace: str | None = None) -> Any:
        """Raises NotFound."""
        reference = refer(kind, name, self._place(namespace))
        self._remember(reference)
        return codec.copy(await self.client.get(reference.kind.type, reference.name, reference.namespace))

    async def list(
        self, kind: Kindly, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> list[Any]:
        """Of the cluster's namespace, of another, or of all if it is ""."""
        found = await self._listed(resolve(kind).type, self._place(namespace), label_selector, field_selector)
        return [codec.copy(item) for item in found.items]

    async def _listed(self, type: type[Any], place: str, labels: str = "", fields: str = "") -> ObjectList[Any]:
        return await self.client.list(type, place, label_selector=labels, field_selector=fields)

    async def watch(
        self, kind: Kindly, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncGenerator[WatchEvent[Any], None]:
        """What is there, then every change, until the server ends the watch."""
        batches = self.client.watch(
            resolve(kind).type, self._place(namespace), label_selector=label_selector, field_selector=field_selector,
            send_initial_events=True,
        )
        async with aclosing(batches):
            async for batch in batches:
                for event in batch:
                    if event.type != "BOOKMARK":
                        yield WatchEvent(event.type, codec.copy(event.object))

    async def wait_for(
        self, kind: Any, name: str = "", namespace: str | None = None, *, condition: str | Callable[[Any], bool],
        timeout: float = 60.0,
    ) -> Any:
        """The object, once it is there and the condition holds. A condition is what `kubectl wait --for` takes
        ("Ready" and "condition=Ready", "condition=Ready=False", "jsonpath={.status.phase}=Running", "create",
        "delete", which gives None), or a function of the object. Raises TimeoutError, which tells how it looked.
        """
        reference = refer(kind, name, self._place(namespace))
        self._remember(reference)
        if isinstance(condition, str):
            return await self._until(reference, conditions.parse(condition), condition, timeout)
        holds = condition
        return await self._until(
            reference, lambda obj: obj is not None and bool(holds(obj)), _name_of(condition), timeout
        )

    async def rollout_status(
        self, what: Any, name: str = "", namespace: str | None = None, *, timeout: float = 600.0
    ) -> Any:
        """The Deployment, DaemonSet or StatefulSet once it is rolled out. Raises RolloutFailed for a Deployment past
        its progress deadline, and TimeoutError."""
        reference = refer(what, name, self._place(namespace))
        self._remember(reference)
        return await self._until(
            reference, lambda obj: obj is not None and not conditions.rollout_lacks(obj), "rolled out", timeout
        )

    async def _until(
        self, reference: Reference, holds: Callable[[Any], bool], wanted: str, timeout: float
    ) -> Any:
        last: Any = None
        try:
            async with asyncio.timeout(timeout), aclosing(self._states(reference)) as states:
                async for last in states:
                    if holds(last):
                        return last if last is None else codec.copy(last)
        except TimeoutError:
            shown = "it is not there" if last is None else f"its status:\n{_shown(last)}"
            raise TimeoutError(
                f"{reference}: not {wanted} within {timeout:g} {self._unit} (seed {self.seed}); {shown}"
            ) from None
        raise AssertionError("the states of an object do not end")

    async def _states(self, reference: Reference) -> AsyncGenerator[Any, None]:
        """The object, None where there is none, and every later state: for ever, whatever happens to watches."""
        kind, place, name = reference
        one = f"metadata.name={name}"
        while True:
            try:
                there = await self._listed(kind.type, place, fields=one)
                yield there.items[0] if there.items else None
                batches = self.client.watch(
                    kind.type, place, field_selector=one, resource_version=there.resourceVersion
                )
                async with aclosing(batches):
                    async for batch in batches:
                        for event in batch:
                            if event.type != "BOOKMARK":
                                yield None if event.type == "DELETED" else event.object
            except _BREAKS:
                pass
            await self.clock.sleep(_RETRY)

    async def logs(
        self, pod: Any, namespace: str | None = None, *, container: str = "", previous: bool = False,
        tail: int | None = None, timestamps: bool = False,
    ) -> str:
        """What a container wrote, of the pod's first if none is named. `pod` is a name or a Pod."""
        _, place, name = self._pod(pod, namespace)
        query = {
            "container": container, "previous": "true" if previous else "", "timestamps": "true" if timestamps else "",
            "tailLines": "" if tail is None else str(tail),
        }  # fmt: skip
        response = await self.client.call(
            "GET", object_path(resolve("pods"), place, name, "log"), accept="*/*",
            query={key: (value,) for key, value in query.items() if value},
        )
        return (await _body(response)).decode("utf-8", "replace")

    async def events(
        self, what: Any = None, name: str = "", namespace: str | None = None
    ) -> builtins.list[core.Event]:
        """The Events of an object, or of the namespace; oldest first."""
        place, fields = self._place(namespace), ""
        if what is not None:
            kind, place, name = refer(what, name, place)
            fields = f"involvedObject.kind={kind.kind},involvedObject.name={name}"
        found = (await self._listed(core.Event, place, fields=fields)).items
        return [codec.copy(event) for event in sorted(cast("list[core.Event]", found), key=last_seen)]

    async def why(self, what: Any, name: str = "", namespace: str | None = None) -> Story:
        """Every write to an object that is kept, newest first: who made it, and because of what. The object may be
        gone by now. Printed, it is the chain of causes back to somebody's request."""
        kind, place, name = refer(what, name, self._place(namespace))
        return await story(self.client, kind.type(metadata=meta.ObjectMeta(name=name, namespace=place)))

    async def exec(self, pod: Any, command: Sequence[str], namespace: str | None = None, *, container: str = "") -> str:
        """Always refused: no process runs in a simulated pod. `pinnace up` starts clusters where one does."""
        kind, place, name = self._pod(pod, namespace)
        await self.client.get(kind.type, name, place)
        raise errors.BadRequest(
            f"cannot run {' '.join(command)!r} in pod {name}{f', container {container}' if container else ''}: "
            "the cluster's nodes are simulated, and no process runs there"
        )

    # ---------------------------------------------------------------------------------------------------- helpers

    def _place(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else namespace

    def _pod(self, pod: Any, namespace: str | None) -> Reference:
        """A pod by its name alone, too."""
        named = isinstance(pod, str) and "/" not in pod
        return refer("pods" if named else pod, pod if named else "", self._place(namespace))

    def _remember(self, reference: Reference) -> None:
        if reference in self.named:
            self.named.remove(reference)
        self.named.append(reference)


def _groups_of(name: str) -> tuple[str, ...]:
    if not name.startswith("system:serviceaccount:"):
        return ()
    return ("system:serviceaccounts", f"system:serviceaccounts:{name.split(':')[2]}")


def _is_object(what: object) -> bool:
    return hasattr(what, "metadata") and not isinstance(what, Mapping)


def _is_word(word: str) -> bool:
    try:
        resolve(word)
    except errors.NotFound:
        return False
    return True


def _name_of(function: Callable[[Any], bool]) -> str:
    name = getattr(function, "__name__", "")
    return name if name and name != "<lambda>" else "as the function wants it"


def _shown(obj: Any) -> str:
    return yaml.dump(codec.to_dict(obj).get("status")).rstrip()


async def _body(response: Response) -> bytes:
    if response.stream is None:
        return response.body
    return b"".join([chunk async for chunk in response.stream])
