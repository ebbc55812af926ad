"""Pod statuses: phases, conditions and container states as upstream reports them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pinnace.api.core import v1 as core
from pinnace.kubelet.pod_plan import Doom, Verdict, Waiting
from pinnace.kubelet.pod_status import Facts, pod_status
from pinnace.kubelet.status_writer import patch_of
from pinnace.runtime.cri import Container

from .fakes import make_pod
from .test_pod_plan import CREATED, EXITED, GONE, NOW, cell, inits, two


def status_of(pod: core.Pod, *containers: Container, **more: Any) -> core.PodStatus:
    more.setdefault("sandbox_ips", ("10.1.0.2",))
    ready = bool(more["sandbox_ips"])
    return pod_status(
        pod, Facts(now=NOW, host_ips=("10.0.0.1",), sandbox_ready=ready, containers=containers, **more)
    )


ALWAYS, FAILURE, NEVER = (make_pod(restartPolicy=policy) for policy in ("Always", "OnFailure", "Never"))
DONE, FAILED = cell(state=EXITED), cell(state=EXITED, code=1)

PHASES: list[tuple[str, core.Pod, tuple[Container, ...], dict[str, Any], str]] = [
    ("nothing yet", ALWAYS, (), {}, "Pending"),
    ("created", ALWAYS, (cell(state=CREATED),), {}, "Pending"),
    ("running", ALWAYS, (cell(),), {}, "Running"),
    ("one of two", two(), (cell(),), {}, "Pending"),
    ("one of two ended", two(), (cell(state=EXITED, code=1), cell("log")), {}, "Running"),
    ("between restarts", ALWAYS, (FAILED,), {}, "Running"),
    ("in crash loop", ALWAYS, (FAILED,), {"waiting": {"app": Waiting("CrashLoopBackOff", "x")}}, "Running"),
    ("Always after success", ALWAYS, (DONE,), {}, "Running"),
    ("OnFailure after success", FAILURE, (DONE,), {}, "Succeeded"),
    ("OnFailure after failure", FAILURE, (FAILED,), {}, "Running"),
    ("Never after success", NEVER, (DONE,), {}, "Succeeded"),
    ("Never after failure", NEVER, (FAILED,), {}, "Failed"),
    ("initializing", inits(), (cell("one"),), {}, "Pending"),
    ("an init container failed", inits(), (cell("one", state=EXITED, code=1),), {}, "Pending"),
    ("for good", inits("Never"), (cell("one", state=EXITED, code=1),), {}, "Failed"),
    ("deleted and well", ALWAYS, (DONE,), {"doom": GONE}, "Succeeded"),
    ("deleted and killed", ALWAYS, (cell(state=EXITED, code=143),), {"doom": GONE}, "Failed"),
    ("deleted and still running", ALWAYS, (cell(),), {"doom": GONE}, "Running"),
    ("evicted", ALWAYS, (cell(),), {"doom": Doom(NOW, "Evicted", "low", failed=True)}, "Failed"),
]


@pytest.mark.parametrize(
    ("pod", "containers", "more", "phase"), [row[1:] for row in PHASES], ids=[row[0] for row in PHASES]
)
def test_phases(pod: core.Pod, containers: tuple[Container, ...], more: dict[str, Any], phase: str) -> None:
    assert status_of(pod, *containers, **more).phase == phase


def conditions(status: core.PodStatus) -> dict[str, tuple[str, str | None, str | None]]:
    return {c.type: (c.status, c.reason, c.message) for c in status.conditions or ()}


def test_conditions_of_a_pod_that_begins() -> None:
    found = conditions(status_of(inits(), sandbox_ips=()))
    assert found["PodReadyToStartContainers"][0] == "False"
    assert found["Initialized"] == (
        "False", "ContainersNotInitialized", "containers with incomplete status: [one side two]"
    )  # fmt: skip
    assert found["Ready"] == ("False", "ContainersNotReady", "containers with unready status: [side app]")
    assert found["PodScheduled"][0] == "True"


def test_conditions_of_one_that_runs_and_ends() -> None:
    running = status_of(two(), cell(), cell("log"), verdicts={"log-0": Verdict(ready=False)})
    assert conditions(running)["Ready"] == ("False", "ContainersNotReady", "containers with unready status: [log]")
    assert conditions(status_of(two(), cell(), cell("log")))["Ready"] == ("True", None, None)
    ended = conditions(status_of(NEVER, DONE))
    assert ended["Ready"] == ("False", "PodCompleted", None) and ended["Initialized"] == ("True", "PodCompleted", None)
    assert conditions(status_of(NEVER, FAILED))["ContainersReady"] == ("False", "PodFailed", None)


def test_readiness_gates() -> None:
    pod = make_pod(readinessGates=[{"conditionType": "example.com/ok"}])
    assert conditions(status_of(pod, cell()))["Ready"] == (
        "False", "ReadinessGatesNotReady",
        'corresponding condition of pod readiness gate "example.com/ok" does not exist.',
    )  # fmt: skip
    pod.status.conditions = [core.PodCondition(type="example.com/ok", status="True")]
    found = conditions(status_of(pod, cell()))
    assert found["Ready"][0] == "True" and found["example.com/ok"][0] == "True"


def test_transition_times_stay_until_the_status_changes() -> None:
    pod = make_pod()
    pod.status.conditions = [
        core.PodCondition(type="Ready", status="True", lastTransitionTime="2020-01-01T00:00:00Z"),
        core.PodCondition(type="ContainersReady", status="False", lastTransitionTime="2020-01-01T00:00:00Z"),
    ]
    times = {c.type: c.lastTransitionTime for c in status_of(pod, cell()).conditions or ()}
    assert (times["Ready"], times["ContainersReady"]) == ("2020-01-01T00:00:00Z", "1970-01-12T13:46:40Z")


def one(status: core.PodStatus) -> core.ContainerStatus:
    return (status.containerStatuses or [])[0]


def test_container_states() -> None:
    assert one(status_of(inits())).state.waiting == core.ContainerStateWaiting(reason="PodInitializing")
    assert one(status_of(ALWAYS)).state.waiting == core.ContainerStateWaiting(reason="ContainerCreating")
    running = one(status_of(ALWAYS, cell(attempt=2), cell(attempt=1, state=EXITED, code=9), image_ids={"app-2": "d"}))
    assert (running.restartCount, running.ready, running.started, running.imageID) == (2, True, True, "d")
    assert running.lastState.terminated is not None and running.lastState.terminated.exitCode == 9
    crashing = {"app": Waiting("CrashLoopBackOff", "m")}
    waiting = one(status_of(ALWAYS, FAILED, waiting=crashing, messages={"app-0": "why"}))
    assert waiting.state.waiting == core.ContainerStateWaiting(reason="CrashLoopBackOff", message="m")
    last = waiting.lastState.terminated
    assert last is not None and (last.reason, last.message, last.containerID) == ("Error", "why", "pinnace://app-0")
    unstarted = one(status_of(ALWAYS, cell(), verdicts={"app-0": Verdict(started=False)}))
    assert (unstarted.started, unstarted.ready) == (False, False)


def test_a_container_of_which_the_runtime_has_no_trace() -> None:
    pod = make_pod()
    before = status_of(pod, cell(attempt=3))
    pod.status = before
    gone = one(status_of(pod))
    assert gone.restartCount == 4
    assert gone.lastState.terminated is not None and gone.lastState.terminated.exitCode == 137
    ended = one(status_of(pod, doom=GONE))
    assert ended.state.terminated is not None and ended.state.terminated.reason == "ContainerStatusUnknown"


def test_containers_that_were_added_are_told_and_count_for_nothing() -> None:
    pod = make_pod(ephemeralContainers=[{"name": "look", "image": "app:1"}])
    status = status_of(pod, cell(), cell("look"))
    (look,) = status.ephemeralContainerStatuses or ()
    assert look.state.running is not None
    assert (look.ready, look.started) == (False, None)
    assert status.phase == "Running"
    status = status_of(pod, cell(), cell("look", state=EXITED, code=3))
    (look,) = status.ephemeralContainerStatuses or ()
    assert look.state.terminated is not None and look.state.terminated.exitCode == 3
    assert conditions(status)["Ready"][0] == "True"
    (look,) = status_of(pod, cell()).ephemeralContainerStatuses or ()
    assert look.state.waiting is not None and look.state.waiting.reason == "ContainerCreating"


def test_an_ended_pod_stays_ended() -> None:
    pod = make_pod(restartPolicy="Never")
    pod.status = status_of(pod, DONE)
    again = status_of(pod, terminal=True, sandbox_ips=())
    assert (again.phase, again.podIP) == ("Succeeded", "10.1.0.2")
    assert one(again).state.terminated is not None


def test_a_patch_says_only_what_changed() -> None:
    old = status_of(ALWAYS)
    new = status_of(ALWAYS, cell())
    patch = patch_of(old, new)
    assert set(patch) == {"phase", "containerStatuses", "conditions"}
    assert {c["type"] for c in patch["conditions"]} == {"Ready", "ContainersReady"}
    assert all(c["reason"] is None for c in patch["conditions"])       # what was said before is taken back
    assert patch_of(new, new) == {}
    moved = patch_of(new, msgspec.structs.replace(new, podIP="10.1.0.3", podIPs=[core.PodIP(ip="10.1.0.3")]))
    assert moved == {"podIP": "10.1.0.3", "podIPs": [{"$patch": "replace"}, {"ip": "10.1.0.3"}]}
    assert patch_of(new, msgspec.structs.replace(new, podIP=None)) == {"podIP": None}


def test_a_patch_unsets_of_a_condition_only_what_was_set() -> None:
    old = core.PodStatus(conditions=[core.PodCondition(type="Ready", status="False", reason="ContainersNotReady")])
    new = core.PodStatus(conditions=[core.PodCondition(type="Ready", status="True")])
    assert patch_of(old, new) == {"conditions": [{"type": "Ready", "status": "True", "reason": None}]}
