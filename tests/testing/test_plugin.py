"""The pytest plugin, as pytest runs it: who gets which cluster, on which loop, from which seed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

# pytester forgets what a run has imported: what is loaded before it is not loaded again by each.
import pinnace.testing.compat_kind
import pinnace.testing.compat_kubernetes
import pinnace.testing.endpoint
import pinnace.testing.running  # noqa: F401

pytest_plugins = ["pytester"]

_HEAD = """
import asyncio
import pytest
from pinnace.testing import Cluster, SyncCluster
from pinnace.testing.loop import VirtualLoop

CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}

def loop():
    return asyncio.get_running_loop()
"""


class Runs:
    """Runs files of tests in a pytest of their own, in this process, with warnings as errors."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, source: str, *args: str, ini: str = "", mode: str = "strict") -> pytest.RunResult:
        self.pytester.makepyprojecttoml(
            f"[tool.pytest.ini_options]\nasyncio_mode = '{mode}'\nasyncio_default_fixture_loop_scope = 'function'\n"
            "filterwarnings = ['error']\n"
            f"addopts = '--strict-markers -p no:cacheprovider -p no:hypothesispytest'\n{ini}"
        )
        self.pytester.makepyfile(test_it=_HEAD + source)
        return self.pytester.runpytest_inprocess(*args)


@pytest.fixture
def runs(pytester: pytest.Pytester) -> Runs:
    return Runs(pytester)


def test_coroutines_get_the_asynchronous_cluster_and_functions_the_other(runs: Runs) -> None:
    source = """
@pytest.fixture
def prepared(cluster):
    assert isinstance(cluster, SyncCluster)
    cluster.apply(CONFIG)

async def test_async(cluster, prepared):
    assert isinstance(cluster, Cluster)
    assert isinstance(loop(), VirtualLoop)
    await cluster.advance(hours=1)
    assert (await cluster.get("cm/c")).metadata.name == "c"

def test_sync(cluster, prepared):
    assert isinstance(cluster, SyncCluster)
    cluster.advance(hours=1)
    assert cluster.get("cm/c").metadata.name == "c"

class TestInAClass:
    async def test_fresh(self, cluster):
        assert not [c for c in await cluster.list("cm") if c.metadata.name == "c"]

    @pytest.mark.parametrize("name", ["a", "b"])
    async def test_parameters(self, cluster, name, request):
        await cluster.create({**CONFIG, "metadata": {"name": name}})
        assert request.instance is self
"""
    runs(source).assert_outcomes(passed=5)


_ONE_LOOP = """
seen = []

@pytest.fixture
async def early():
    return loop()

@pytest.fixture
async def prepared(cluster, early):
    assert isinstance(cluster, Cluster) and early is loop()
    async with asyncio.timeout(3600), asyncio.TaskGroup():
        await cluster.apply(CONFIG)
        yield loop()
        await cluster.get("cm/c")
        seen.append("torn down")

async def test_async(early, cluster, prepared):
    assert early is prepared is loop()
    await cluster.advance(minutes=30)

def test_sync(cluster, prepared):
    assert seen == ["torn down"]
    cluster.advance(minutes=30)

class TestMethods:
    @pytest.fixture
    async def own(self, cluster):
        self.mark = 1
        return self

    async def test_instance(self, own, cluster):
        assert own is self and self.mark == 1
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_asynchronous_fixtures_run_on_the_loop_of_the_test(runs: Runs, mode: str) -> None:
    runs(_ONE_LOOP, mode=mode).assert_outcomes(passed=3)


@pytest.mark.parametrize("time", ["virtual", "real"])
def test_who_cancels_everything_breaks_one_test_alone(runs: Runs, time: str) -> None:
    source = """
@pytest.fixture
async def never_begins(cluster):
    async def wait():
        await asyncio.sleep(1e9)
    later = asyncio.create_task(wait())
    later.cancel()
    await later

@pytest.fixture
async def never_ends(cluster):
    yield
    asyncio.current_task().cancel()
    await asyncio.sleep(0)

async def test_begins(never_begins): ...
async def test_ends(never_ends): ...
async def test_itself(cluster):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)
def test_others(cluster):
    assert len(cluster.list("nodes")) == 1
async def test_all_others(cluster):
    assert len(await cluster.list("nodes")) == 1
"""
    result = runs(source, ini=f"pinnace_time = '{time}'\n")
    result.assert_outcomes(passed=3, failed=1, errors=2)
    assert result.stdout.str().count("Cancelled: cancelled by somebody on the same loop") >= 3


def test_without_the_other_plugins_too(runs: Runs) -> None:
    runs.pytester.makeini("")
    runs.pytester.makepyfile(test_it=_HEAD + _ONE_LOOP)
    without = [f"-pno:{name}" for name in ("asyncio", "anyio", "xdist", "xdist.looponfail", "cacheprovider",
                                           "hypothesispytest")]  # fmt: skip
    runs.pytester.runpytest_inprocess(*without, "-Werror").assert_outcomes(passed=3)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_only_one_plugin_runs_a_coroutine(runs: Runs, mode: str) -> None:
    source = """
import pytest_asyncio
times = []

@pytest_asyncio.fixture
async def theirs():
    return loop()

@pytest.mark.asyncio
async def test_marked_for_asyncio(cluster, theirs):
    times.append("asyncio")
    assert isinstance(loop(), VirtualLoop) and theirs is loop()

@pytest.mark.anyio
async def test_marked_for_anyio(cluster):
    times.append("anyio")
    assert isinstance(loop(), VirtualLoop)

@pytest.mark.asyncio
async def test_foreign(theirs):
    assert not isinstance(loop(), VirtualLoop) and theirs is loop()

@pytest.mark.anyio
async def test_foreign_to_both(anyio_backend):
    assert not isinstance(loop(), VirtualLoop)

@pytest.mark.pinnace
async def test_marked_alone():
    assert isinstance(loop(), VirtualLoop)
    async with Cluster() as cluster:
        await cluster.advance(minutes=1)

def test_each_ran_once():
    assert times.count("asyncio") == 1 and times.count("anyio") == 1
"""
    result = runs(source, "-k", "not trio", mode=mode)
    result.assert_outcomes(passed=6, deselected=result.parseoutcomes().get("deselected", 0))


def test_somebody_elses_fixture_of_that_name_is_theirs(runs: Runs) -> None:
    source = """
@pytest.fixture
def cluster():
    return "mine"

@pytest.mark.asyncio
async def test_it(cluster):
    assert cluster == "mine" and not isinstance(loop(), VirtualLoop)

class TestMadeOfOurs:
    @pytest.fixture
    def cluster(self, request):
        return request.getfixturevalue("cluster_factory")(nodes=2)

    def test_it(self, cluster):
        assert len(cluster.list("nodes")) == 2
"""
    runs(source).assert_outcomes(passed=2)


def test_the_marker_and_the_configuration_say_how_it_is(runs: Runs) -> None:
    source = """
pytestmark = pytest.mark.pinnace(seed=5)

def test_configured(cluster):
    assert len(cluster.list("nodes")) == 2 and cluster.seed == 5 and cluster.time == "virtual"

@pytest.mark.pinnace(nodes=3, seed=7)
def test_marked(cluster):
    assert len(cluster.list("nodes")) == 3 and cluster.seed == 7

@pytest.mark.pinnace(cluster_signing_duration="4h")
def test_certificates(cluster):
    identity = cluster.nodes.identity(cluster.nodes.names[0])
    assert (identity.end - cluster.now()).total_seconds() == 4 * 3600

@pytest.mark.pinnace(time="real", store="sqlite")
async def test_real(cluster):
    assert not isinstance(loop(), VirtualLoop) and cluster.time == "real"
    await cluster.apply(CONFIG)
    with pytest.raises(RuntimeError, match="cannot be advanced"):
        await cluster.advance(hours=1)
"""
    runs(source, ini="pinnace_nodes = 2\npinnace_seed = 3\n").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("noodles=3", "does not know noodles; it knows nodes, time, seed, store, scope, threads, timeout, life"),
        ("3", "takes no positional arguments, only nodes, time, seed"),
        ("time='imaginary'", "time must be one of virtual, real, not 'imaginary'"),
        ("nodes='many'", "nodes must be a number of nodes, not 'many'"),
        ("timeout='long'", "timeout must be a number of seconds, not 'long'"),
        ("cluster_signing_duration='5m'", "certificates must last for 10 minutes at least, not 5m"),
        ("store='sqlite'", "needs time=\"real\""),
    ],
)
def test_wrong_markers_name_what_is_right(runs: Runs, marker: str, said: str) -> None:
    result = runs(f"@pytest.mark.pinnace({marker})\nasync def test_it(cluster): ...\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_wrong_configuration_is_said_at_once(runs: Runs) -> None:
    result = runs("def test_it(): ...", ini="pinnace_scope = 'galaxy'\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*scope must be one of function, class, module, package, session, not 'galaxy'*"])


_SEEDS = """
async def test_it(cluster):
    print("SEED", cluster.seed, [n.metadata.uid for n in await cluster.list("nodes")])
"""


def _seeds(result: pytest.RunResult) -> list[str]:
    return re.findall(r"SEED (\d+ .*)", result.stdout.str())


def test_a_seed_belongs_to_the_test(runs: Runs) -> None:
    (first,), (second,) = _seeds(runs(_SEEDS, "-s")), _seeds(runs(_SEEDS, "-s"))
    assert first == second
    (other,) = _seeds(runs(_SEEDS.replace("test_it", "test_that"), "-s"))
    assert other != first
    (given,) = _seeds(runs(_SEEDS, "-s", "--pinnace-seed=11"))
    assert given.startswith("11 ") and given != first


def test_a_test_runs_under_several_seeds(runs: Runs) -> None:
    source = _SEEDS + "\ndef test_plain(): ...\n"
    result = runs(source, "-s", "--pinnace-seeds=4")
    result.assert_outcomes(passed=5)
    assert len(set(_seeds(result))) == 4
    (usual,) = _seeds(runs(_SEEDS, "-s"))
    assert usual in _seeds(result)


_FAILS = """
@pytest.mark.pinnace(nodes=0)
@pytest.mark.parametrize("image", ["a"])
async def test_it(cluster, image):
    await cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"},
                         "spec": {"containers": [{"name": "c", "image": image}]}})
    await cluster.advance(minutes=2)
    await cluster.wait_for("pod/alone", condition="Ready", timeout=30)
"""


def test_a_failure_says_what_happened_and_how_to_see_it_again(runs: Runs) -> None:
    result = runs(_FAILS)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    (section,) = re.findall(r"-+ pinnace -+\n(.*?)\n=+ ", text, re.DOTALL)
    assert len(section.splitlines()) < 40
    assert "150.000 virtual seconds after its start" in section
    assert "pod/alone in namespace default: Pending, PodScheduled=False (Unschedulable)" in section
    assert "FailedScheduling: no nodes available" in section
    assert "created" in section and "(pinnace-testing)" in section                # its story, by why
    (again,) = re.findall(r"again: pytest (.*)", section)
    assert "'test_it.py::test_it[a]'" in again
    replayed = runs(_FAILS, again.split()[-1])
    assert re.findall(r"seed \d+", text) == re.findall(r"seed \d+", replayed.stdout.str())


def test_a_failure_under_one_of_several_seeds_is_replayed_alone(runs: Runs) -> None:
    text = runs(_FAILS, "--pinnace-seeds=2").stdout.str()
    found = re.findall(r"again: pytest (\S+) --pinnace-seed=(\d+)", text)
    assert len(set(found)) == 2
    assert {test for test, _ in found} == {"'test_it.py::test_it[a]'"}


def test_a_failure_without_a_cluster_says_nothing_of_one(runs: Runs) -> None:
    assert "pinnace -" not in runs("def test_it(): assert False").stdout.str()


def test_a_shared_cluster_gives_each_test_its_namespace(runs: Runs) -> None:
    source = """
@pytest.fixture(scope="module")
def installed(pinnace_module_cluster):
    pinnace_module_cluster.apply({**CONFIG, "metadata": {"name": "base", "namespace": "kube-public"}})
    return pinnace_module_cluster

@pytest.fixture(scope="module")
async def started(pinnace_module_cluster, installed):
    assert isinstance(pinnace_module_cluster, Cluster)
    yield await pinnace_module_cluster.get("cm", "base", "kube-public")
    await pinnace_module_cluster.get("cm", "base", "kube-public")

spaces = []

def test_one(cluster, installed, cluster_namespace):
    assert cluster.namespace == cluster_namespace == "test-one-1"
    cluster.apply(CONFIG)
    assert cluster.get("cm", "c").metadata.namespace == "test-one-1"
    spaces.append(installed.asynchronous)

async def test_two(cluster, started):
    assert started.metadata.name == "base"
    assert cluster is spaces[0] and cluster.namespace == "test-two-2"
    assert "c" not in [c.metadata.name for c in await cluster.list("cm")]
    assert "test-one-1" not in [n.metadata.name for n in await cluster.list("namespaces")]

def test_other(cluster):
    assert cluster.asynchronous is not spaces[0] and cluster.namespace == "default"
"""
    runs(source).assert_outcomes(passed=3)


def test_a_shared_cluster_in_real_time_answers_functions_and_coroutines(runs: Runs) -> None:
    source = """
def test_one(cluster):
    cluster.apply(CONFIG)

async def test_two(cluster):
    assert cluster.namespace == "test-two-2"
    await cluster.apply(CONFIG)
    await asyncio.sleep(0)
"""
    result = runs(source, ini="pinnace_time = 'real'\npinnace_scope = 'session'\n")
    result.assert_outcomes(passed=2)


def test_several_clusters_in_one_test(runs: Runs) -> None:
    source = """
async def test_async(cluster, cluster_factory):
    other = await cluster_factory(nodes=2)
    assert other.seed != cluster.seed
    await other.apply(CONFIG)
    assert "c" not in [c.metadata.name for c in await cluster.list("cm")]
    before = other.now()
    await cluster.advance(hours=1)
    assert (other.now() - before).total_seconds() == 3600
    with pytest.raises(ValueError, match="share its time"):
        await cluster_factory(time="real")

def test_sync(cluster_factory):
    one, two = cluster_factory(), cluster_factory(nodes=3)
    assert len(one.list("nodes")) == 1 and len(two.list("nodes")) == 3
"""
    runs(source).assert_outcomes(passed=2)


def test_on_several_workers(runs: Runs) -> None:
    source = """
@pytest.mark.parametrize("n", range(6))
async def test_it(cluster, n):
    await cluster.apply(CONFIG)
    assert n != 3, f"SEED {cluster.seed}"
"""
    alone, spread = runs(source), runs(source, "-n2")
    alone.assert_outcomes(passed=5, failed=1)
    spread.assert_outcomes(passed=5, failed=1)
    assert set(re.findall(r"again: .*", alone.stdout.str())) == set(re.findall(r"again: .*", spread.stdout.str()))
    assert re.findall(r"SEED \d+", alone.stdout.str())[0] in spread.stdout.str()


def test_a_coroutine_that_waits_for_ever_does_not(runs: Runs) -> None:
    source = """
@pytest.mark.pinnace(timeout=3600)
async def test_it(cluster):
    await asyncio.Event().wait()

async def test_own(cluster):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Event().wait()
    async with asyncio.timeout(5):
        await asyncio.Event().wait()
"""
    result = runs(source, ini="pinnace_timeout = 7200.5\n")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*TimeoutError: not over after 3600 seconds of the cluster's time:*"])


def test_who_needs_no_cluster_pays_nothing() -> None:
    program = """
import sys, time, pytest
before = set(sys.modules)
begun = time.process_time()
import pinnace.testing.plugin, pinnace.testing.compat_kubernetes, pinnace.testing.compat_kind
spent = time.process_time() - begun
heavy = {"asyncio", "aiohttp", "msgspec", "yaml", "cryptography", "uvloop", "pinnace.api", "pinnace.testing.cluster"}
assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)
print(spent)
"""
    spent = min(
        float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60).stdout)
        for _ in range(3)
    )
    assert spent < 0.02
