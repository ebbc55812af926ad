"""The API server as one function: `handle` takes a Request and gives a Response.

Behind it: authentication → impersonation → authorization → the verb on a registry (with admission inside), or one
of the documents (discovery, OpenAPI, health, metrics). Two fronts call it: `http.py` and `inprocess.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.kinds import Kind, kind_of
from pinnace.apiserver import calls, responses, subresources
from pinnace.apiserver.access import (
    Admission,
    AdmissionPlugin,
    AllowAll,
    Attributes,
    Authenticator,
    Authorizer,
    Unguarded,
    forbidden,
    unconcerned,
)
from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.cache import Entry, Form, WatchCache
from pinnace.apiserver.calls import Call
from pinnace.apiserver.causes import Causes
from pinnace.apiserver.documents import Documents
from pinnace.apiserver.expiry import Expiry
from pinnace.apiserver.feed import ROOT, Feed
from pinnace.apiserver.impersonation import impersonate
from pinnace.apiserver.kubelet_proxy import Kubelets, NoKubelets
from pinnace.apiserver.limits import Inflight
from pinnace.apiserver.listing import Lister
from pinnace.apiserver.metrics import Metrics
from pinnace.apiserver.objects import CachedObjects
from pinnace.apiserver.options import flag, text
from pinnace.apiserver.paths import Target, parse, verb_of
from pinnace.apiserver.registry import Admit, Registry
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.watching import Bookmarks, Watch
from pinnace.base.clock import Clock
from pinnace.base.deadline import within
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request, Response, User
from pinnace.store.store import Store

log = logging.getLogger("pinnace.apiserver")

REQUEST_SECONDS = 60.0
# Field selectors that watchers of many objects use each for its own: looked up, not searched for.
_INDEXED = {("", "pods"): ("spec.nodeName",)}
# Reads come from memory: only the wait for a revision takes time, and has a bound of its own.
_UNTIMED = frozenset({"get", "list", "watch"})
_LONG_RUNNING = frozenset({"log", "exec", "attach", "portforward", "proxy"})
_LATE = "Timeout: request did not complete within the allotted timeout"


class ApiServer:
    """Serves the resources of a table from a store. `start` before the first request; `close` at the end.

    `authenticator`, `authorizer` and `admission` may be set after construction, before `start`: those of
    the security parts read objects through `server.objects`.
    """

    def __init__(
        self,
        store: Store,
        resources: Iterable[Resource[Any]],
        clock: Clock,
        randomness: Randomness,
        *,
        authenticator: Authenticator | None = None,
        authorizer: Authorizer | None = None,
        admission: Sequence[AdmissionPlugin] = (),
        kubelets: Kubelets | None = None,
        address: str = "",
        service_cidr: str = "10.96.0.0/16",
    ) -> None:
        self.store = store
        self.clock = clock
        self.randomness = randomness
        self.authenticator: Authenticator = authenticator or Unguarded()
        self.authorizer: Authorizer = authorizer or AllowAll()
        self.admission = tuple(admission)
        self.kubelets: Kubelets = kubelets or NoKubelets()
        self.service_cidr = service_cidr
        self.token_issuer: TokenIssuer | None = None
        self.metrics = Metrics(clock)
        self.inflight = Inflight()
        self.resources = tuple(resources)
        self._caches: dict[str, WatchCache] = {}
        self.feed = Feed(store, self._caches, clock, self._expire_watches)
        self.lister = Lister(self.feed, store)
        self._registries: dict[tuple[str, str, str], Registry] = {}
        self._by_kind: dict[Kind, Registry] = {}
        for resource in self.resources:
            self._serve(resource)
        self.objects = CachedObjects(self)
        self.documents = Documents(self, address)
        self.watches: dict[Watch, None] = {}
        self.bookmarks = Bookmarks()
        self.causes = Causes(self)
        self.expiry = Expiry(self)
        self.ready = False

    def _serve(self, resource: Resource[Any]) -> None:
        kind, stored = resource.kind, resource.stored_as or resource.kind
        place = f"{stored.group}/{stored.plural}" if stored.group else stored.plural
        prefix = f"{ROOT}{resource.storage_prefix or place}/"
        cache = self._caches.get(prefix)
        if cache is None:
            fields = _INDEXED.get((stored.group, stored.plural), ())
            indexed = {name: resource.fields[name] for name in fields if name in resource.fields}
            cache = self._caches[prefix] = WatchCache(Form(stored), prefix, indexed)
        registry = Registry(resource, cache, self.feed, self.store, self, self.randomness)
        self._registries[kind.group, kind.version, kind.plural] = registry
        self._by_kind[kind] = registry

    async def start(self, decoded: Mapping[str, Entry] | None = None) -> None:
        """Fill the caches from the store and follow it. `decoded`: entries by key that need not be decoded again,
        where the store has the very values that they were made of."""
        await self.feed.start(decoded or {})
        if kind_of(core.Event) in self._by_kind:
            self.expiry.start()
        self.ready = True

    async def close(self) -> None:
        """End all watches and stop following the store, which stays open."""
        self.ready = False
        for watch in tuple(self.watches):
            watch.end()
        await self.expiry.close()
        await self.feed.close()
        await self.kubelets.close()

    # For the parts inside

    def registry(self, what: Kind | type[Any]) -> Registry:
        """The registry of a kind. Raises KeyError if it is not served."""
        return self._by_kind[what if isinstance(what, Kind) else kind_of(what)]

    def served(self, target: Target) -> Registry:
        """The registry that a path leads to. Raises NotFound."""
        registry = self._registries.get((target.group, target.version, target.resource))
        if registry is None:
            raise errors.NotFound.path()
        return registry

    def named(self, key: str) -> tuple[Kind, str, str] | None:
        """Kind, namespace and name of what lies under a key of the store; None for a key of no kind."""
        for prefix, cache in self._caches.items():
            if key.startswith(prefix):
                namespace, _, name = key.removeprefix(prefix).rpartition("/")
                return cache.form.kind, namespace, name
        return None

    def registries(self) -> Iterable[Registry]:
        return self._registries.values()

    def current_revision(self) -> int:
        return self.feed.revision

    @property
    def admission(self) -> tuple[AdmissionPlugin, ...]:
        return self._admission

    @admission.setter
    def admission(self, plugins: tuple[AdmissionPlugin, ...]) -> None:
        self._admission = plugins
        self._mutating = tuple(plugin.mutate for plugin in plugins if type(plugin).mutate is not unconcerned)
        self._validating = tuple(plugin.validate for plugin in plugins if type(plugin).validate is not unconcerned)

    def admit(self, admission: Admission) -> tuple[Admit, Admit]:
        """The two halves of admission for one write."""
        async def mutate(new: Any, old: Any) -> None:
            admission.object, admission.old_object = new, old
            admission.name = admission.name or (new.metadata.name or "" if new is not None else "")
            for plugin in self._mutating:
                await plugin(admission)

        async def validate(new: Any, old: Any) -> None:
            admission.object, admission.old_object = new, old
            for plugin in self._validating:
                await plugin(admission)

        return mutate, validate

    def allow_create(self, call: Call) -> None:
        """An update that would create needs the right to create. Raises Forbidden."""
        self._authorize(_attributes(call.user, call.target, "create", call.request))

    # The front door

    async def handle(self, request: Request, *, encoded: bool = True) -> Response:
        """Answer one request; never raises. With `encoded` false objects are not turned into bytes."""
        started = self.clock.monotonic()
        target = parse(request.path)
        verb = ""
        try:
            watching = target is not None and "watch" in request.query and flag(request.query, "watch")
            verb = verb_of(request.method, target, watching) if target is not None else request.method.lower()
            response = await self._answer(request, target, verb, encoded)
        except errors.StatusError as error:
            response = responses.failure(error, request.headers.get("accept", ""))
        except TimeoutError:
            response = responses.failure(errors.Timeout(_LATE, errors.StatusDetails()))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            response = responses.failure(errors.InternalError.of(error))
        self.metrics.count(verb, target, response.status, self.clock.monotonic() - started)
        return response

    async def _answer(self, request: Request, target: Target | None, verb: str, encoded: bool) -> Response:
        user = await self.authenticator.authenticate(request)
        if user is None:
            raise errors.Unauthorized()
        for name in request.headers:
            if name.startswith("impersonate-"):
                user = impersonate(user, request.headers, self._authorize)
                break
        if target is None and (asked := self.causes.asked(request.path)) is not None:
            return await self.causes.answer(request, user, asked)       # whoever may get the object
        if target is None:
            self._authorize(Attributes(user, verb, path=request.path))
            return await self.documents.answer(request)
        if not verb:
            raise errors.MethodNotAllowed()
        self._authorize(_attributes(user, target, verb, request))
        registry = self.served(target)
        call = Call(self, request, target, registry, user, verb, encoded)
        if target.subresource:
            return await self._timed(call, subresources.handle)
        self._check_scope(call)
        return await self._timed(call, calls.VERBS[verb])

    async def _timed(self, call: Call, run: Callable[[Call], Coroutine[Any, Any, Response]]) -> Response:
        """Within the request's deadline, if it has one: watches, logs and connections last longer."""
        if call.verb in _UNTIMED or call.target.subresource in _LONG_RUNNING:
            return await run(call)
        return await within(_deadline(call.request), run(call))

    def _check_scope(self, call: Call) -> None:
        kind, target = call.registry.kind, call.target
        if target.namespace and not kind.namespaced:
            raise errors.NotFound.path()
        if kind.namespaced and not target.namespace and (target.name or call.verb not in ("list", "watch")):
            if call.verb == "create" or call.verb == "deletecollection":
                raise errors.MethodNotAllowed()
            raise errors.NotFound.path()
        if call.verb not in call.registry.resource.verbs or (target.name and call.verb == "create"):
            raise errors.MethodNotAllowed()
        if not target.name and call.verb in ("update", "patch"):
            raise errors.MethodNotAllowed()

    def _authorize(self, attributes: Attributes) -> None:
        decision = self.authorizer.authorize(attributes)
        if not decision.allowed:
            raise forbidden(attributes, decision.reason)

    def _expire_watches(self) -> None:
        if kind_of(core.Event) in self._by_kind:
            self.expiry.start()
        for watch in tuple(self.watches):
            watch.end(errors.Expired("too old resource version: the server had to read everything anew"))


def _deadline(request: Request) -> float:
    asked = text(request.query, "timeout") if request.query else ""
    if asked.endswith("s") and asked[:-1].isdigit() and len(asked) < 6:
        return min(REQUEST_SECONDS, float(asked[:-1]) or REQUEST_SECONDS)
    return REQUEST_SECONDS


def _attributes(user: User, target: Target, verb: str, request: Request) -> Attributes:
    query, name, namespace = request.query, target.name, target.namespace
    field_selector = label_selector = ""
    if query and verb in ("list", "watch", "deletecollection"):
        field_selector, label_selector = text(query, "fieldSelector"), text(query, "labelSelector")
        if not name and field_selector.startswith("metadata.name=") and "," not in field_selector:
            name = field_selector.removeprefix("metadata.name=").removeprefix("=")
    if target.resource == "namespaces" and not target.group and name:
        namespace = name      # upstream: a namespace lies in itself
    return Attributes(
        user, verb, target.group, target.version, target.resource, target.subresource, namespace, name,
        request.path, field_selector, label_selector,
    )  # fmt: skip
