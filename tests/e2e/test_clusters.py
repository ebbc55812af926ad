"""Lives of whole clusters: side by side, after crashes, with changed wishes, and without root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pinnace.cluster.cleanup import remove_cgroups, unmount_below
from pinnace.cluster.layout import cgroup_root
from pinnace.cluster.processes import find_below

from .conftest import SOURCE, Cluster, eventually, sleeper

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="real containers need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH"),
]

Make = Callable[[str], Cluster]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the clusters of this file, with an image."""
    base = tmp_path_factory.mktemp("clusters")
    Cluster("none", base / "home", base / "none").pinnace("image", "build-busybox")
    return base / "home"


@pytest.fixture
def make(home: Path, tmp_path: Path) -> Iterator[Make]:
    """Clusters that are purged after the test; not started."""
    made = []

    def named(name: str) -> Cluster:
        made.append(Cluster(f"{name}-{os.getpid()}", home, tmp_path / name))
        return made[-1]

    try:
        yield named
    finally:
        for cluster in made:
            cluster.pinnace("down", "--name", cluster.name, "--purge", check=False)


def up(cluster: Cluster, *arguments: str) -> None:
    cluster.pinnace("up", "--name", cluster.name, "--no-egress", *arguments)
    eventually(lambda: cluster.kubectl("get", "serviceaccount", "default", check=False).code == 0)


def processes(cluster: Cluster) -> dict[str, int]:
    """Of those of the cluster that run."""
    (state,) = json.loads(cluster.pinnace("status", "--name", cluster.name, "-o", "json", check=False).out)
    return {
        part: int(about.rpartition(" ")[2])
        for part, about in state["processes"].items()
        if about.startswith("running")
    }


def container_of(cluster: Cluster, pod: str) -> str:
    return str(cluster.get("pod", pod)["status"]["containerStatuses"][0]["containerID"])


def server_of(cluster: Cluster) -> str:
    return cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}").out


def test_two_clusters_stand_side_by_side(make: Make) -> None:
    first, second = make("left"), make("right")
    up(first)
    up(second)
    assert server_of(first) != server_of(second)
    for cluster in (first, second):
        cluster.apply(sleeper("same-name"))
    for cluster in (first, second):
        cluster.wait_pod("same-name")
    first.pinnace("down", "--name", first.name, "--purge")
    assert container_of(second, "same-name")
    assert second.kubectl("exec", "same-name", "--", "echo", "still here").out == "still here\n"
    assert first.pinnace("status", "--name", first.name, check=False).code == 1


def test_a_namesake_of_another_home_is_left_alone(make: Make, tmp_path: Path) -> None:
    cluster = make("name")
    up(cluster)
    impostor = Cluster(cluster.name, tmp_path / "another-home", cluster.kubeconfig)
    done = impostor.pinnace("up", "--name", cluster.name, "--no-egress", check=False)
    assert done.code == 1
    assert "of another PINNACE_HOME runs on this machine" in done.err
    assert "There is no cluster" in impostor.pinnace("down", "--name", cluster.name, "--purge").out
    assert len(cluster.get("nodes")["items"]) == 1
    assert set(processes(cluster)) == {"server", f"{cluster.name}-node-1"}


def test_two_commands_start_one_cluster(make: Make) -> None:
    cluster = make("race")
    command = [sys.executable, "-m", "pinnace", "up", "--name", cluster.name, "--no-egress"]
    started = [
        subprocess.Popen(command, env=cluster.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ends = [(*process.communicate(timeout=60), process.returncode) for process in started]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert sorted("was running already" in out for out, _, _ in ends) == [False, True]


def test_everything_comes_back_after_kill_9(make: Make) -> None:
    """Containers run on meanwhile and are adopted again; nothing is ready before the nodes have said so anew."""
    cluster = make("crash")
    up(cluster)
    cluster.apply(sleeper("survivor"))
    cluster.wait_pod("survivor")
    before = container_of(cluster, "survivor")
    lease = cluster.get("lease", f"{cluster.name}-node-1", "-n", "kube-node-lease")["spec"]["renewTime"]
    killed = processes(cluster)
    assert set(killed) == {"server", f"{cluster.name}-node-1"}
    for number in (signal.SIGHUP, signal.SIGKILL):
        assert processes(cluster) == killed, "a terminal that closes ends nothing"
        for pid in (killed["server"], killed[f"{cluster.name}-node-1"]):
            os.kill(pid, number)
    eventually(lambda: not processes(cluster))
    up(cluster)
    assert cluster.get("lease", f"{cluster.name}-node-1", "-n", "kube-node-lease")["spec"]["renewTime"] > lease
    assert container_of(cluster, "survivor") == before
    assert cluster.get("pod", "survivor")["status"]["containerStatuses"][0]["restartCount"] == 0
    assert cluster.kubectl("exec", "survivor", "--", "echo", "hello").out == "hello\n"


def test_pods_come_back_after_a_reboot(make: Make) -> None:
    """Of what a reboot takes away, all is taken away: processes, mounts, cgroups, the host's link."""
    cluster = make("reboot")
    up(cluster)
    cluster.apply(sleeper("phoenix"))
    cluster.wait_pod("phoenix")
    before = container_of(cluster, "phoenix")
    for part in sorted(processes(cluster).items(), reverse=True):       # the server first
        os.kill(part[1], signal.SIGKILL)
    for conmon in find_below(cluster.directory, program="conmon"):
        os.kill(conmon, signal.SIGKILL)
    remove_cgroups(cgroup_root(cluster.name))
    unmount_below(cluster.directory)
    for path in Path("/run/netns").glob(f"pinnace.{cluster.name}.*"):
        subprocess.run(["umount", "--lazy", str(path)], check=True)
    up(cluster)
    eventually(lambda: container_of(cluster, "phoenix") != before)
    cluster.wait_pod("phoenix")
    assert cluster.get("pod", "phoenix")["status"]["containerStatuses"][0]["restartCount"] == 1
    assert cluster.kubectl("exec", "phoenix", "--", "echo", "hello").out == "hello\n"


def test_nodes_are_added_and_removed(make: Make) -> None:
    cluster = make("grow")
    up(cluster)
    node = processes(cluster)[f"{cluster.name}-node-1"]
    up(cluster, "--nodes", "2", "--simulated-nodes", "1")
    names = [f"{cluster.name}-node-1", f"{cluster.name}-node-2", f"{cluster.name}-simulated-1"]
    assert [item["metadata"]["name"] for item in cluster.get("nodes")["items"]] == names
    assert processes(cluster)[names[0]] == node, "a node that stays goes on undisturbed"
    up(cluster, "--nodes", "1", "--simulated-nodes", "0")
    eventually(lambda: [item["metadata"]["name"] for item in cluster.get("nodes")["items"]] == names[:1])
    assert not Path(f"/run/netns/pinnace.{cluster.name}.node.{names[1]}").exists()
    assert not (cluster.directory / "nodes" / names[1]).exists()


def test_a_taken_port_is_left_to_who_has_it(make: Make) -> None:
    cluster = make("port")
    up(cluster)
    cluster.apply(sleeper("witness"))
    cluster.wait_pod("witness")
    first = server_of(cluster)
    port = int(first.rpartition(":")[2])
    os.kill(processes(cluster)["server"], signal.SIGKILL)
    eventually(lambda: "server" not in processes(cluster))
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        up(cluster)
    assert server_of(cluster) != first
    # The node, which ran on meanwhile, has followed.
    cluster.apply(sleeper("newcomer"))
    cluster.wait_pod("newcomer")


def test_a_start_in_vain_leaves_nothing_running(make: Make) -> None:
    cluster = make("vain")
    store = cluster.directory / "store"
    store.mkdir(parents=True)
    (store / "pinnace.db").write_bytes(b"this is no database" * 1000)
    done = cluster.pinnace("up", "--name", cluster.name, "--no-egress", check=False)
    assert done.code == 1
    said = done.err.splitlines()
    assert said[0].startswith("pinnace: ")
    assert str(cluster.directory / "logs" / "server.log") in said[1]
    assert "Traceback" not in done.err
    assert not processes(cluster)
    assert not list(Path("/run/netns").glob(f"pinnace.{cluster.name}.*"))


def test_interrupting_a_start_ends_it(make: Make) -> None:
    cluster = make("stopped")
    # Where the tests run in the background of a script, SIGINT is ignored, and children inherit that.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import pinnace.cli.main as cli"
    command = [sys.executable, "-c", f"{program}; cli.entry()", "up", "--name", cluster.name, "--no-egress"]
    process = subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True)
    eventually(lambda: (cluster.directory / "run" / "server.pid").exists())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not processes(cluster)


def test_without_root_nodes_are_simulated(tmp_path: Path) -> None:
    """As nobody: the whole control plane, pods that go through their lives, and one line about what is missing."""
    python = _python_for_everybody()
    home = Path("/tmp") / f"pinnace-nobody-{os.getpid()}"      # pytest's own directories are closed to others
    home.mkdir()
    os.chown(home, 65534, 65534)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PINNACE_HOME": str(home / "home"),
        "KUBECONFIG": str(home / "kubeconfig"),
        "PYTHONPATH": os.pathsep.join([str(SOURCE), *(path for path in sys.path if path.endswith("site-packages"))]),
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, user=65534, group=65534, extra_groups=[], text=True, capture_output=True,
            timeout=60, check=False, cwd="/",
        )  # fmt: skip

    try:
        done = run(python, "-P", "-m", "pinnace", "up", "--name", "rootless")
        assert done.returncode == 0, done.stderr
        assert done.stderr == "containers need root: nodes are simulated; run as root for real ones\n"
        assert run("kubectl", "create", "deployment", "web", "--image=none", "--replicas=3").returncode == 0
        assert run("kubectl", "rollout", "status", "deployment/web", "--timeout=20s").returncode == 0
        pods = json.loads(run("kubectl", "get", "pods", "-o", "json").stdout)["items"]
        assert [(pod["status"]["phase"], pod["spec"]["nodeName"]) for pod in pods] == [
            ("Running", "rootless-simulated-1")
        ] * 3
        assert run("kubectl", "delete", "deployment", "web").returncode == 0
        eventually(lambda: not json.loads(run("kubectl", "get", "pods", "-o", "json").stdout)["items"])
        done = run(python, "-P", "-m", "pinnace", "up", "--name", "rootless", "--nodes", "1")
        assert done.returncode == 1
        assert done.stderr == "pinnace: containers need root: nodes are simulated; run as root for real ones\n"
    finally:
        run(python, "-P", "-m", "pinnace", "down", "--name", "rootless", "--purge")
        shutil.rmtree(home)


def _python_for_everybody() -> str:
    """An interpreter of this version that nobody may execute: this one, or the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [python, "-c", "import sys; print(sys.version_info[:2])"]
        try:
            found = subprocess.run(probe, user=65534, group=65534, text=True, capture_output=True, check=False, cwd="/")
        except OSError:
            continue
        if found.stdout.strip() == str(sys.version_info[:2]):
            return python
    pytest.skip("no interpreter of this version is open to everybody")
