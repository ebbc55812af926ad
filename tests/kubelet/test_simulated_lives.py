"""The life of a simulated pod: tables for the pure machine, without a clock or an API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.kubelet.pod_plan import Verdict
from pinnace.kubelet.simulated import Life, Lives, pods
from pinnace.kubelet.simulated.course import course

from .fakes import make_pod

T0 = 1_800_000_000.0
INF = float("inf")


class Play:
    """A pod on a node of its own, moved by hand; its status is written as soon as it changes."""

    def __init__(self, pod: core.Pod, lives: Lives | None = None, *, drift: float = 0.0) -> None:
        self.pod = pod
        self.images: dict[str, bool] = {}
        self.place = pods.Place("10.0.0.1", "10.1.0.1", (lives or Lives()).of, self.images, drift)
        self.state = pods.adopted(pod, self.place, T0)
        self.told: list[tuple[str, str]] = []
        self.phases: list[tuple[float, str]] = []
        self.again: float | None = T0
        self.now = T0

    def to(self, seconds: float) -> Play:
        """Until so many seconds after the beginning, from one moment to the next."""
        for _ in range(5000):
            if self.again is None or self.again > T0 + seconds:
                break
            self.now = max(self.now, self.again)
            self._look()
        self.now = T0 + seconds
        self._look()
        return self

    def _look(self) -> None:
        done = pods.advance(self.pod, self.state, self.place, self.now)
        self.state, self.again = done.state, done.again
        assert self.again is None or self.again > self.now
        self.images.update(done.pulled)
        self.told += [(t.reason, t.message) for t in done.told]
        self.pod.status = pods.status(self.pod, self.state, self.place, self.now)
        if not self.phases or self.phases[-1][1] != self.pod.status.phase:
            self.phases.append((round(self.now - T0, 3), self.pod.status.phase or ""))

    def delete(self, grace: int) -> Play:
        self.pod.metadata.deletionTimestamp = times.format(times.from_timestamp(self.now))
        self.pod.metadata.deletionGracePeriodSeconds = grace
        self.again = self.now
        return self

    def container(self, name: str = "app") -> core.ContainerStatus:
        status = self.pod.status
        every = [*(status.initContainerStatuses or ()), *(status.containerStatuses or ())]
        return next(c for c in every if c.name == name)

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.told]


def lives(**changes: Any) -> Lives:
    return Lives(Life(**changes))


def waiting(play: Play, name: str = "app") -> tuple[str, str]:
    state = play.container(name).state.waiting
    assert state is not None
    return state.reason or "", state.message or ""


def test_a_plain_pod_runs_and_needs_no_timer() -> None:
    play = Play(make_pod()).to(1)
    assert play.phases == [(0.0, "Pending"), (0.05, "Running")]
    assert play.reasons() == ["Pulling", "Pulled", "Created", "Started"]
    assert play.container().ready and play.again is None
    assert play.images == {"app:1": True}


def test_quiet_lives_tell_nothing() -> None:
    play = Play(make_pod(), lives(quiet=True)).to(1)
    play.delete(30).to(2)
    assert play.state.finished and play.told == [] and play.images == {"app:1": False}


def test_an_image_is_pulled_once() -> None:
    play = Play(make_pod(), lives(pull=5)).to(4)
    assert waiting(play) == ("ContainerCreating", "")
    assert play.to(6).phases[-1] == (5.05, "Running")
    assert ("Pulled", 'Successfully pulled image "app:1" in 5.000s (5.000s including waiting). Image size: '
            "52428800 bytes.") in play.told  # fmt: skip
    other = Play(make_pod("other"), lives(pull=5))
    other.images.update(play.images)
    assert other.to(1).phases[-1] == (0.05, "Running")
    assert other.told[0] == (
        "Pulled", 'Container image "app:1" already present on machine and can be accessed by the pod'
    )  # fmt: skip


def test_an_image_that_cannot_be_had() -> None:
    play = Play(make_pod(), lives(pull_error="not found")).to(0.5)
    assert waiting(play) == ("ErrImagePull", "not found")
    assert play.to(3).phases == [(0.0, "Pending")]
    assert waiting(play) == ("ImagePullBackOff", 'Back-off pulling image "app:1": ErrImagePull: not found')
    play.to(200)
    tries = [n for n, (reason, _) in enumerate(play.told) if reason == "Pulling"]
    assert len(tries) == 5              # after 10, 20, 40 and 80 seconds
    assert ("Failed", 'Failed to pull image "app:1": not found') in play.told
    assert ("Failed", "Error: ErrImagePull") in play.told and ("Failed", "Error: ImagePullBackOff") in play.told


def test_the_policy_of_never() -> None:
    play = Play(make_pod(containers=[{"name": "app", "image": "app:1", "imagePullPolicy": "Never"}])).to(1)
    assert waiting(play) == (
        "ErrImageNeverPull", 'Container image "app:1" is not present with pull policy of Never'
    )  # fmt: skip


@pytest.mark.parametrize(("policy", "life", "phases"), [
    ("Never", {}, [(0.0, "Pending"), (0.05, "Running"), (2.05, "Succeeded")]),
    ("Never", {"run": 7, "exit_code": 3}, [(0.0, "Pending"), (0.05, "Running"), (7.05, "Failed")]),
    ("OnFailure", {"run": 7}, [(0.0, "Pending"), (0.05, "Running"), (7.05, "Succeeded")]),
    ("OnFailure", {"run": (1, 5), "exit_code": (1, 0)}, [(0.0, "Pending"), (0.05, "Running"), (6.1, "Succeeded")]),
    ("Always", {"run": 7}, [(0.0, "Pending"), (0.05, "Running")]),
])  # fmt: skip
def test_how_pods_end(policy: str, life: dict[str, Any], phases: list[tuple[float, str]]) -> None:
    assert Play(make_pod(restartPolicy=policy), lives(**life)).to(30).phases == phases


def test_a_container_that_crashes_is_held_back_longer_and_longer() -> None:
    play = Play(make_pod(), lives(run=1, exit_code=2)).to(2.05)
    assert play.container().restartCount == 1 and play.container().state.running is not None
    play.to(3)
    uid = play.pod.metadata.uid
    assert waiting(play) == (
        "CrashLoopBackOff", f"back-off 10s restarting failed container=app pod=web_default({uid})"
    )  # fmt: skip
    last = play.container().lastState.terminated
    assert last is not None and (last.exitCode, last.reason) == (2, "Error")
    assert play.told[-1] == ("BackOff", f"Back-off restarting failed container app in pod web_default({uid})")
    # Runs of a second; waits of 0, 10, 20, 40, 80, 160, 300, 300 … seconds.
    play.to(1 + 10 + 20 + 40 + 80 + 160 + 12)
    assert play.container().restartCount == 6
    assert waiting(play)[1].startswith("back-off 5m0s ")
    play.to(1000)
    assert play.container().restartCount == 8


def test_a_long_run_makes_the_waits_short_again() -> None:
    play = Play(make_pod(), lives(run=(1, 1, 1, 700, 1, 1), exit_code=1)).to(32)
    assert waiting(play)[1].startswith("back-off 20s ")
    play.to(740)
    assert play.container().restartCount == 4
    assert waiting(play)[1].startswith("back-off 10s ")


def test_out_of_memory() -> None:
    play = Play(make_pod(restartPolicy="Never"), lives(oom_after=60)).to(61)
    ended = play.container().state.terminated
    assert ended is not None and (ended.reason, ended.exitCode) == ("OOMKilled", 137)
    assert play.phases[-1] == (60.05, "Failed")


def test_init_containers_run_in_order_then_sidecars_then_the_rest() -> None:
    pod = make_pod(
        initContainers=[
            {"name": "one", "image": "i:1"}, {"name": "two", "image": "i:1"},
            {"name": "side", "image": "i:1", "restartPolicy": "Always"},
        ],
    )  # fmt: skip
    play = Play(pod, Lives().on(container="one", run=3).on(container="two", run=4).on(run=100, exit_code=9))
    play.to(2)
    assert waiting(play) == ("PodInitializing", "") and play.pod.status.phase == "Pending"
    assert play.container("one").state.running is not None and waiting(play, "two")[0] == "PodInitializing"
    play.to(5)
    assert play.container("one").state.terminated is not None and play.container("two").state.running is not None
    play.to(8)
    assert play.pod.status.phase == "Running" and play.container("side").started
    # The rule for all concerns neither how init containers end …
    assert play.container("one").state.terminated.exitCode == 0  # type: ignore[union-attr]  # asserted above
    play.to(120)
    assert play.container().restartCount == 1     # … but the others


def test_an_init_container_that_fails() -> None:
    pod = make_pod(initContainers=[{"name": "one", "image": "i:1"}], restartPolicy="Never")
    play = Play(pod, Lives().on(container="one", run=3, exit_code=1)).to(5)
    assert play.phases[-1][1] == "Failed" and play.again is None


def test_a_pod_that_takes_too_long() -> None:
    play = Play(make_pod(activeDeadlineSeconds=10), lives()).to(20)
    assert play.phases[-1] == (10.02, "Failed") or play.phases[-1] == (10.0, "Failed")
    assert play.pod.status.reason == "DeadlineExceeded"
    assert ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline") in play.told
    assert ("Killing", "Stopping container app") in play.told


@pytest.mark.parametrize(("life", "grace", "gone"), [
    ({}, 30, 0.02), ({"stop": 5}, 30, 5.0), ({"stop": 60}, 30, 30.0), ({"stop": 60}, 2, 2.0),
])  # fmt: skip
def test_a_deleted_pod_gets_its_grace(life: dict[str, Any], grace: int, gone: float) -> None:
    play = Play(make_pod(), lives(**life)).to(10)
    play.delete(grace).to(10 + gone - 0.001)
    assert not play.state.finished
    play.to(10 + gone + 0.001)
    assert play.state.finished
    ended = play.container().state.terminated
    assert ended is not None and ended.exitCode == (137 if life.get("stop", 0) > grace else 0)


def test_a_pod_that_is_deleted_before_it_runs() -> None:
    play = Play(make_pod(), lives(pull=100)).to(10)
    assert play.delete(30).to(10).state.finished


def test_a_second_deletion_can_only_hurry() -> None:
    play = Play(make_pod(), lives(stop=1000)).to(10)
    play.delete(300).to(20)
    play.delete(5).to(24)
    assert not play.state.finished
    assert play.to(25.01).state.finished


PROBE = {"periodSeconds": 10, "httpGet": {"port": 80}}


def _changes(container: dict[str, Any], **life: Any) -> list[tuple[float, bool, bool, str]]:
    """(seconds after the start, started, ready, failed probe)"""
    pod = make_pod(containers=[{"name": "app", "image": "app:1", **container}])
    marks = course(pod, pod.spec.containers[0], Life(**life), 0).marks
    out: list[tuple[float, bool, bool, str]] = []
    for mark in marks:
        row = (mark.at, mark.verdict.started, mark.verdict.ready, mark.verdict.failed)
        if not out or row[1:] != out[-1][1:]:
            out.append(row)
    return out


@pytest.mark.parametrize(("container", "life", "changes"), [
    ({}, {}, [(0, True, True, "")]),
    ({}, {"ready": 30}, [(0, True, False, ""), (30, True, True, "")]),
    ({"readinessProbe": PROBE}, {}, [(0, True, True, "")]),
    ({"readinessProbe": PROBE}, {"ready": 12}, [(0, True, False, ""), (20, True, True, "")]),
    ({"readinessProbe": PROBE | {"initialDelaySeconds": 5}}, {"ready": 12},
     [(0, True, False, ""), (15, True, True, "")]),
    ({"readinessProbe": PROBE | {"successThreshold": 2}}, {"ready": 12}, [(0, True, False, ""), (30, True, True, "")]),
    ({"readinessProbe": PROBE}, {"ready": INF}, [(0, True, False, "")]),
    # Three failures in a row, from the first probe after it stopped to answer; a short absence is not noticed.
    ({"readinessProbe": PROBE}, {"unready": [(31, 95)]},
     [(0, True, True, ""), (60, True, False, ""), (100, True, True, "")]),
    ({"readinessProbe": PROBE}, {"unready": [(31, 39)]}, [(0, True, True, "")]),
    ({"readinessProbe": PROBE}, {"unready": [(31, 45)]}, [(0, True, True, "")]),
    ({"startupProbe": PROBE}, {"ready": 15}, [(0, False, False, ""), (20, True, True, "")]),
    ({"startupProbe": PROBE}, {"ready": 25}, [(0, False, False, ""), (20, False, False, "startup")]),
    ({"startupProbe": PROBE | {"failureThreshold": 30}, "readinessProbe": PROBE}, {"ready": 25},
     [(0, False, False, ""), (30, True, True, "")]),
    ({"livenessProbe": PROBE}, {"unhealthy_after": 61}, [(0, True, True, ""), (90, True, True, "liveness")]),
    ({"livenessProbe": PROBE | {"failureThreshold": 1}}, {"unhealthy_after": 61},
     [(0, True, True, ""), (70, True, True, "liveness")]),
    ({}, {"unhealthy_after": 61}, [(0, True, True, "")]),
])  # fmt: skip
def test_what_probes_find(container: dict[str, Any], life: dict[str, Any], changes: list[tuple[float, ...]]) -> None:
    assert _changes(container, **life) == changes


def test_a_container_that_fails_its_liveness_probe_is_started_anew() -> None:
    pod = make_pod(containers=[{"name": "app", "image": "app:1", "livenessProbe": PROBE}])
    play = Play(pod, lives(unhealthy_after=20)).to(41)
    assert ("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503") in play.told
    assert ("Killing", "Container app failed liveness probe, will be restarted") in play.told
    assert play.container().restartCount == 1
    last = play.container().lastState.terminated
    assert last is not None and last.exitCode == 0


def test_readiness_shows_in_the_status() -> None:
    play = Play(make_pod(), lives(ready=5, unready=[(10, 20)])).to(1)
    ready = {c.type: c.status for c in play.pod.status.conditions or ()}
    assert ready["Ready"] == "False" and ready["ContainersReady"] == "False"
    assert play.to(6).container().ready
    assert not play.to(11).container().ready
    assert play.to(21).container().ready and play.again is None


def test_a_look_that_comes_late_gives_what_looks_in_time_would_have() -> None:
    early = Play(make_pod(), lives(run=1, exit_code=2))
    late = Play(make_pod(), lives(run=1, exit_code=2))
    early.to(500)
    late.to(0).again = None
    late.to(500)
    assert late.state.containers == early.state.containers and late.told == early.told


def test_the_nodes_clock_shows_but_does_not_matter() -> None:
    plain, ahead = Play(make_pod(), lives(run=3)), Play(make_pod(), lives(run=3), drift=3600.0)
    plain.to(100)
    ahead.to(100)
    assert ahead.container().restartCount == plain.container().restartCount > 1
    ours, theirs = plain.container().lastState.terminated, ahead.container().lastState.terminated
    assert ours is not None and theirs is not None
    late = times.parse(theirs.finishedAt or "") - times.parse(ours.finishedAt or "")
    assert late.total_seconds() == 3600


def test_a_reboot() -> None:
    play = Play(make_pod(), lives()).to(10)
    play.state, play.again = pods.machine_lost(play.state, T0 + 10, 0.0), play.now
    play.to(20)
    assert ("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.") in play.told
    last = play.container().lastState.terminated
    assert play.container().restartCount == 1 and last is not None and last.exitCode == 255
    once = Play(make_pod(restartPolicy="Never"), lives(run=INF)).to(10)
    once.state = pods.machine_lost(once.state, T0 + 10, 0.0)
    assert once.to(20).pod.status.phase == "Failed"


def test_a_new_process_takes_over_what_runs() -> None:
    play = Play(make_pod(), lives(run=50)).to(30)
    play.state = pods.adopted(play.pod, play.place, play.now)
    assert play.to(40).container().restartCount == 0
    assert play.to(51).container().restartCount == 1
    assert play.reasons().count("Created") == 2


def test_a_container_whose_image_is_changed_is_started_anew() -> None:
    play = Play(make_pod()).to(1)
    play.pod.spec.containers[0] = msgspec.structs.replace(play.pod.spec.containers[0], image="app:2")
    play.again = play.now
    play.to(2)
    assert ("Killing", "Container app definition changed, will be restarted") in play.told
    assert play.container().image == "app:2" and play.container().restartCount == 1


# ------------------------------------------------------------------------------------------------- the rules


def _life(of: Lives, pod: core.Pod | None = None) -> Life:
    pod = pod or make_pod()
    return of.of(pod, pod.spec.containers[0])


@pytest.mark.parametrize(("rule", "fits"), [
    ({"labels": {"app": "web"}}, True), ({"labels": {"app": "db"}}, False), ({"namespace": "def*"}, True),
    ({"name": "web"}, True), ({"name": "we"}, False), ({"image": "app:*"}, True), ({"image": "broken:*"}, False),
    ({"container": "app"}, True), ({"node": "node-1"}, True), ({"node": "node-1", "container": "x"}, False),
])  # fmt: skip
def test_which_pods_a_rule_is_about(rule: dict[str, Any], fits: bool) -> None:
    pod = make_pod()
    pod.metadata.labels = {"app": "web", "tier": "front"}
    assert _life(Lives().on(**rule, start=30), pod).start == (30 if fits else 0.05)


def test_later_rules_come_on_top() -> None:
    found = _life(Lives(Life(stop=9)).on(start=1, run=5).on(image="app:*", start=2))
    assert (found.start, found.run, found.stop) == (2, 5, 9)


def test_rules_that_cannot_be() -> None:
    with pytest.raises(TypeError, match=r"a Life has no strat; it has .*start"):
        Lives().on(strat=30)
    with pytest.raises(ValueError, match="start must be a number of seconds"):
        Lives().on(start=-1)


def test_annotations_have_the_last_word(caplog: pytest.LogCaptureFixture) -> None:
    pod = make_pod()
    pod.metadata.annotations = {
        "pinnace.dev/start-seconds": "3", "pinnace.dev/unready": "10-20,30-", "pinnace.dev/log": "a\nb",
        "pinnace.dev/log-every": "5 tick {n}", "pinnace.dev/oom-seconds": "soon", "pinnace.dev/stop-seconds": "-1",
        "pinnace.dev/exit-code": "3", "other.dev/run-seconds": "1",
    }  # fmt: skip
    found = _life(Lives().on(start=1), pod)
    assert found == Life(
        start=3, unready=((10, 20), (30, INF)), log=("a", "b"), log_every=(5, "tick {n}"), exit_code=3
    )
    assert "oom-seconds: 'soon' is not understood" in caplog.text and "stop-seconds" in caplog.text


def test_a_verdict_without_probes_is_a_good_one() -> None:
    play = Play(make_pod()).to(1)
    assert list(play.state.verdicts.values()) == [Verdict()]
