"""The pytest plugin: fixtures that give a test a cluster, and the loop that runs the test.

Who asks decides: a coroutine (a test or a fixture) is handed the asynchronous `Cluster`, a plain function the
`SyncCluster` over the same. Coroutine tests that use a cluster are turned here, on the cluster's loop; pytest-asyncio
and anyio see plain functions in their place, so that nobody else runs them.

pytest loads this module whether or not a test needs it: everything heavy is imported by the first test that does.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pinnace.testing.options import CONFIGURABLE, Options, WrongOptions, combined, configured, seed_of

if TYPE_CHECKING:
    from pinnace.testing.running import Factory, Running
    from pinnace.testing.sync import SyncCluster

_SEED = "_pinnace_seed"           # the parameter of --pinnace-seeds
_ID = re.compile(r"-?pinnace-seed-\d+-?")
_OTHERS = ("asyncio", "anyio", "trio")      # markers by which other plugins find the coroutines that they run
_SHARED = {"pinnace_session_cluster": "session", "pinnace_module_cluster": "module"}
_RIVALS = {
    "pinnace.testing.compat_kubernetes": ("pytest-kubernetes", "pytest_kubernetes.plugin"),
    "pinnace.testing.compat_kind": ("pytest-kind", "pytest-kind-ng", "pytest_kind.plugin"),
}

_base = pytest.StashKey[Options]()
_pool = pytest.StashKey["dict[tuple[str, str], tuple[pytest.Item | pytest.Collector, Running]]"]()
_own = pytest.StashKey["Running"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pinnace", "clusters for tests")
    group.addoption("--pinnace-seed", type=int, metavar="N", help="the seed of every cluster: replays a failure")
    group.addoption(
        "--pinnace-seeds", type=int, default=1, metavar="N", help="run each test that uses a cluster under N seeds"
    )
    for name, text in CONFIGURABLE.items():
        parser.addini(f"pinnace_{name}", text, default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "pinnace(nodes, time, seed, store, scope, …): how the test's cluster is to be; see docs/testing.md of Pinnace",
    )
    try:
        config.stash[_base] = configured({name: config.getini(f"pinnace_{name}") for name in CONFIGURABLE})
    except WrongOptions as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_pool] = {}
    _leave_as_is(config.pluginmanager.rewrite_hook)
    for module, rivals in _RIVALS.items():
        if not any(config.pluginmanager.has_plugin(name) for name in rivals):
            config.pluginmanager.import_plugin(module)


def _leave_as_is(rewriting: Any) -> None:
    """pytest rewrites the assertions of every module of a distribution that has a plugin: here a whole Kubernetes,
    compiled anew wherever no bytecode can be written. (Nothing public says no.)"""
    getattr(rewriting, "_must_rewrite", set()).discard("pinnace")
    getattr(rewriting, "_marked_for_rewrite_cache", {}).clear()


# ----------------------------------------------------------------------------------------------------- collection


class CoroutineTest(pytest.Function):
    """A test that is a coroutine, run on its cluster's loop."""

    def runtest(self) -> None:
        from pinnace.testing import running

        function, driver = self.obj, _running_of(self).driver

        def test(**values: Any) -> None:
            __tracebackhide__ = True
            running.run(driver, function, values)

        self.obj = test
        try:
            super().runtest()
        finally:
            self.obj = function

    def get_closest_marker(self, name: str, default: Any = None) -> Any:
        """Other plugins are not to look for a coroutine of theirs here."""
        return default if name in _OTHERS else super().get_closest_marker(name, default)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Being outermost, this sees what other plugins have made of a coroutine, and takes it back."""
    made = yield
    if isinstance(made, list):
        return [_taken(each) for each in made]
    return _taken(made)


def _taken(node: Any) -> Any:
    if not isinstance(node, pytest.Function) or not inspect.iscoroutinefunction(node.obj):
        return node
    if not _reached(node) and node.get_closest_marker("pinnace") is None:
        return node
    test = CoroutineTest.from_parent(
        node.parent, name=node.name, callspec=getattr(node, "callspec", None), callobj=node.obj,
        fixtureinfo=node._fixtureinfo, keywords=node.keywords, originalname=node.originalname,
    )  # fmt: skip
    test.own_markers = node.own_markers
    return test


def _reached(node: Any) -> set[str]:
    """Which of the plugin's fixtures a test uses, itself or by way of others. Somebody else's fixture `cluster` is
    none of them, unless it is made of ours."""
    info = getattr(node, "_fixtureinfo", None)
    if info is None:
        return set()
    found: set[str] = set()
    seen: set[tuple[str, int]] = set()
    left = [(name, 1) for name in info.initialnames]
    while left:
        name, depth = left.pop()
        definitions = info.name2fixturedefs.get(name, ())
        if (name, depth) in seen or len(definitions) < depth:
            continue
        seen.add((name, depth))
        definition = definitions[-depth]
        if getattr(definition.func, "__module__", "") == __name__:
            found.add(name)
        left += [(each, depth + 1 if each == name else 1) for each in definition.argnames]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    runs = metafunc.config.getoption("pinnace_seeds")
    if runs <= 1 or not (_reached(metafunc.definition) or metafunc.definition.get_closest_marker("pinnace")):
        return
    metafunc.fixturenames.append(_SEED)
    test = metafunc.definition.nodeid
    seeds = [seed_of(test, run) for run in range(runs)]
    metafunc.parametrize(_SEED, seeds, ids=[f"pinnace-seed-{seed}" for seed in seeds], indirect=True)


# ------------------------------------------------------------------------------------------------- loops and seeds


def _options_of(item: pytest.Item) -> Options:
    """Fails the test if its markers cannot be."""
    base = item.config.stash[_base]
    for name, scope in _SHARED.items():
        if base.scope == "function" and name in _reached(item):
            base = replace(base, scope=scope)
    try:
        return combined(base, [(mark.args, mark.kwargs) for mark in reversed(list(item.iter_markers("pinnace")))])
    except WrongOptions as error:
        pytest.fail(str(error), pytrace=False)


def _running_of(item: pytest.Item) -> Running:
    """The loop of a test, with its clusters; made when it is first asked for."""
    if _own in item.stash:
        return item.stash[_own]
    options = _options_of(item)
    owner = _owner(item, options.scope)
    if owner is not item:
        return _shared(item.config, owner, options)
    from pinnace.testing.running import Running

    threaded = not isinstance(item, CoroutineTest)
    item.stash[_own] = running = Running(options, _seed_of(item, options), threaded=threaded, shared=False)
    return running


def _shared(config: pytest.Config, owner: Any, options: Options) -> Running:
    pool, key = config.stash[_pool], (owner.nodeid, repr(replace(options, scope="")))
    if key not in pool:
        from pinnace.testing.running import Running

        given = config.getoption("pinnace_seed")
        seed = next((each for each in (given, options.seed) if each is not None), seed_of(owner.nodeid))
        pool[key] = owner, Running(options, seed, threaded=True, shared=True)
    return pool[key][1]


def _owner(item: pytest.Item, scope: str) -> Any:
    """The node with which a cluster of that scope ends."""
    kinds: dict[str, Any] = {"class": pytest.Class, "module": pytest.Module, "package": pytest.Package}
    if scope == "function":
        return item
    found = item.getparent(kinds[scope]) if scope in kinds else None
    return found if found is not None else item if scope == "class" else item.session


def _seed_of(item: pytest.Item, options: Options) -> int:
    given = item.config.getoption("pinnace_seed")
    if given is not None:
        return int(given)
    call = getattr(item, "callspec", None)
    if call is not None and _SEED in call.params:
        return int(call.params[_SEED])
    return options.seed if options.seed is not None else seed_of(item.nodeid)


# ------------------------------------------------------------------------------------------------------ the phases


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
    """Run asynchronous fixtures on the loop of the cluster that they are used with."""
    function = fixturedef.func
    generator = inspect.isasyncgenfunction(function)
    if not generator and not inspect.iscoroutinefunction(function):
        return (yield)
    running = _running_for(fixturedef, request)
    if running is None:
        return (yield)
    from pinnace.testing.running import begin_generator, run

    bound = _bound(function, request.instance)

    def plain(**values: Any) -> Any:
        if generator:
            return begin_generator(running.driver, bound, values, request.addfinalizer)
        return run(running.driver, bound, values)

    fixturedef.func = plain
    try:
        return (yield)
    finally:
        fixturedef.func = function


def _running_for(fixturedef: Any, request: Any) -> Running | None:
    item = request._pyfuncitem
    if fixturedef.scope == "function":
        ours = isinstance(item, CoroutineTest) or bool(_reached(item))
        return _running_of(item) if ours else None
    for name, scope in _SHARED.items():
        if name in fixturedef.argnames:
            return _shared(item.config, _owner(item, scope), replace(item.config.stash[_base], scope=scope))
    return None


def _bound(function: Any, instance: Any) -> Any:
    """A fixture that is a method belongs to the test's own instance."""
    if instance is not None and inspect.ismethod(function) and isinstance(instance, type(function.__self__)):
        return function.__func__.__get__(instance)
    return function


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.failed and call.excinfo is not None:
        running = item.stash.get(_own, None)
        if running is None and _reached(item):
            running = _lent_to(item)
        if running is not None and not any(title == "pinnace" for title, _ in report.sections):
            report.sections.append(("pinnace", running.report(_again(item, running))))
    return report


def _lent_to(item: pytest.Item) -> Running | None:
    """The shared loop that the test has used, if it got as far."""
    try:
        options = _options_of(item)
    except pytest.fail.Exception:
        return None
    entry = item.config.stash[_pool].get((_owner(item, options.scope).nodeid, repr(replace(options, scope=""))))
    return entry[1] if entry is not None else None


def _again(item: pytest.Item, running: Running) -> str:
    """The command that runs the same once more. Who shares a cluster must be run together."""
    node: Any = _owner(item, running.options.scope) if running.shared else item
    test = _ID.sub("", str(item.config.cwd_relative_nodeid(node.nodeid))).replace("[]", "") if node.nodeid else ""
    return " ".join(["pytest", *([shlex.quote(test)] if test else []), f"--pinnace-seed={running.seed}"])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Clusters end after everything that may use them."""
    try:
        return (yield)
    finally:
        if _own in item.stash:
            running = item.stash[_own]
            del item.stash[_own]
            running.close()
        _close_shared(item.config, nextitem.listchain() if nextitem is not None else [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _pool in session.config.stash:
        _close_shared(session.config, [])


def _close_shared(config: pytest.Config, needed: list[Any]) -> None:
    pool = config.stash[_pool]
    for key, (owner, running) in list(pool.items()):
        if owner not in needed:
            del pool[key]
            running.close()


# -------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[SyncCluster]:
    """A Kubernetes cluster for this test: a `pinnace.testing.Cluster` in coroutines, else a `SyncCluster`."""
    with _running_of(request.node).lent(request.node.originalname or request.node.name) as lent:
        yield lent


@pytest.fixture
def cluster_factory(request: pytest.FixtureRequest) -> Factory:
    """Makes further clusters on the test's loop: `cluster_factory(nodes=3)`, awaited in coroutines."""
    from pinnace.testing.running import Factory

    return Factory(_running_of(request.node))


@pytest.fixture
def cluster_namespace(cluster: SyncCluster) -> str:
    """The namespace that belongs to this test: a fresh one where the cluster is shared."""
    return cluster.namespace


@pytest.fixture(scope="session")
def pinnace_session_cluster(request: pytest.FixtureRequest) -> SyncCluster:
    """The cluster that all tests with scope="session" share, for fixtures that prepare it."""
    return _prepared(request, "session")


@pytest.fixture(scope="module")
def pinnace_module_cluster(request: pytest.FixtureRequest) -> SyncCluster:
    """The cluster that this module's tests with scope="module" share, for fixtures that prepare it."""
    return _prepared(request, "module")


def _prepared(request: pytest.FixtureRequest, scope: str) -> SyncCluster:
    return _shared(request.config, request.node, replace(request.config.stash[_base], scope=scope)).cluster()


@pytest.fixture
def _pinnace_seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)
