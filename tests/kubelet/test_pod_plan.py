"""The pure plan: tables, and that it always comes to rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pinnace.api.core import v1 as core
from pinnace.kubelet.crash_backoff import CrashBackoff
from pinnace.kubelet.pod_plan import (
    CreateSandbox,
    Doom,
    Finish,
    KillContainer,
    Memory,
    MountVolumes,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    Seen,
    StartContainer,
    StartFailure,
    Step,
    StopSandbox,
    UnmountVolumes,
    Verdict,
    plan,
)
from pinnace.kubelet.policy import all_containers
from pinnace.runtime.cri import Container, ContainerState, PodIdentity, Sandbox, SandboxState

from .fakes import make_pod

NOW = 1_000_000.0


def box(id: str = "b0", attempt: int = 0, state: SandboxState = SandboxState.READY) -> Sandbox:
    return Sandbox(id, PodIdentity("web", "default", "uid-web", attempt), state, NOW, "/ns", {}, {}, ("10.1.0.2",))


def cell(
    name: str = "app", attempt: int = 0, state: ContainerState = ContainerState.RUNNING, code: int = 0,
    *, at: float = NOW, box: str = "b0", annotations: dict[str, str] | None = None,
) -> Container:  # fmt: skip
    ended = at if state is ContainerState.EXITED else 0.0
    return Container(
        f"{name}-{attempt}", box, name, attempt, state, "app:1", "sha256:aa", at, at, ended, code, "", "", 0, {},
        annotations or {}, "",
    )  # fmt: skip


RUNNING, EXITED, CREATED = ContainerState.RUNNING, ContainerState.EXITED, ContainerState.CREATED


ENDED = NOW         # when a cell did, unless its row says otherwise


def look(pod: core.Pod | None = None, **more: Any) -> Seen:
    more.setdefault("sandboxes", (box(),))
    more.setdefault("mounted", True)
    return Seen(pod=pod or make_pod(), now=NOW, **more)


def two() -> core.Pod:
    return make_pod(containers=[{"name": "app", "image": "app:1"}, {"name": "log", "image": "app:1"}])


def inits(policy: str = "Always") -> core.Pod:
    return make_pod(
        restartPolicy=policy,
        initContainers=[
            {"name": "one", "image": "app:1"}, {"name": "side", "image": "app:1", "restartPolicy": "Always"},
            {"name": "two", "image": "app:1"},
        ],
    )  # fmt: skip


def debugged(**spec: Any) -> core.Pod:
    return make_pod(ephemeralContainers=[{"name": "look", "image": "app:1"}], **spec)


GONE = Doom(NOW + 30, deleted=True)
NEVER, ON_FAILURE = make_pod(restartPolicy="Never"), make_pod(restartPolicy="OnFailure")

TABLE: list[tuple[str, Seen, tuple[Step, ...]]] = [
    ("volumes come first", look(sandboxes=(), mounted=False), (MountVolumes(),)),
    ("then the sandbox", look(sandboxes=()), (CreateSandbox(0),)),
    ("not twice", look(sandboxes=(), busy=frozenset({"sandbox"})), ()),
    ("nor too soon after it failed", look(sandboxes=(), blocked_until=NOW + 5), ()),
    ("then the container", look(), (StartContainer("app", 0),)),
    ("one after the other", look(two()), (StartContainer("app", 0),)),
    ("the second when the first runs", look(two(), containers=(cell(),)), (StartContainer("log", 0),)),
    ("nothing while it runs", look(containers=(cell(),)), ()),
    ("the first restart is immediate", look(containers=(cell(state=EXITED, code=1),)),
        (StartContainer("app", 1, ENDED),)),
    ("so is that of a success", look(containers=(cell(state=EXITED),)), (StartContainer("app", 1, ENDED),)),
    ("later ones wait", look(
        containers=(cell(state=EXITED, code=1, at=NOW - 5),),
        memory={"app": Memory(crash=CrashBackoff(10, NOW - 6))}), ()),
    ("until the backoff is over", look(
        containers=(cell(state=EXITED, code=1, at=NOW - 10),),
        memory={"app": Memory(crash=CrashBackoff(10, NOW - 60))}),
        (StartContainer("app", 1, NOW - 10),)),
    ("Never does not restart", look(NEVER, containers=(cell(state=EXITED, code=1),)), (StopSandbox("b0"),)),
    ("OnFailure restarts failures", look(ON_FAILURE, containers=(cell(state=EXITED, code=1),)),
        (StartContainer("app", 1, ENDED),)),
    ("OnFailure leaves successes", look(ON_FAILURE, containers=(cell(state=EXITED),)), (StopSandbox("b0"),)),
    ("its volumes go when its sandbox is stopped", look(
        NEVER, sandboxes=(box(state=SandboxState.NOTREADY),), containers=(cell(state=EXITED, code=1),)),
        (UnmountVolumes(),)),
    ("a failed liveness probe kills", look(containers=(cell(),), verdicts={"app-0": Verdict(failed="liveness")}),
        (KillContainer("app-0", "app", NOW + 30, "Container app failed liveness probe, will be restarted"),)),
    ("with the probe's own grace", look(containers=(cell(),), verdicts={"app-0": Verdict(failed="startup", grace=5)}),
        (KillContainer("app-0", "app", NOW + 5, "Container app failed startup probe, will be restarted"),)),
    ("a changed image replaces", look(
        containers=(cell(annotations={"io.kubernetes.container.hash": "old"}),), hashes={"app": "new"}),
        (KillContainer("app-0", "app", NOW + 30, "Container app definition changed, will be restarted"),)),
    ("a failed start waits", look(
        memory={"app": Memory(failure=StartFailure("CreateContainerConfigError", "x", NOW - 1, NOW + 9))}), ()),
    ("a created container was never started", look(containers=(cell(state=CREATED),)), (StartContainer("app", 1),)),
    ("the API's count goes on", look(memory={"app": Memory(restart_count=4)}), (StartContainer("app", 5),)),
    ("a lost sandbox is replaced", look(
        sandboxes=(box(state=SandboxState.NOTREADY),), containers=(cell(state=EXITED, code=137),)),
        (CreateSandbox(1),)),
    ("one without addresses is stopped first", look(networked=False), (StopSandbox("b0"),)),
    ("in the new one it starts again", look(
        sandboxes=(box("b1", 1), box(state=SandboxState.NOTREADY)), containers=(cell(state=EXITED, code=137),)),
        (StartContainer("app", 1, ENDED),)),
    ("old dead containers are removed", look(containers=(cell(attempt=2), cell(attempt=1, state=EXITED),
        cell(attempt=0, state=EXITED))), (RemoveContainer("app-0"),)),
    ("old empty sandboxes are removed", look(
        sandboxes=(box("b1", 1), box(state=SandboxState.NOTREADY)), containers=(cell(box="b1"),)),
        (RemoveSandbox("b0"),)),
    ("init containers begin", look(inits()), (StartContainer("one", 0),)),
    ("and are waited for", look(inits(), containers=(cell("one"),)), ()),
    ("a failed one is tried again", look(inits(), containers=(cell("one", state=EXITED, code=1),)),
        (StartContainer("one", 1, ENDED),)),
    ("a failed one ends a pod that never restarts", look(
        inits("Never"), containers=(cell("one", state=EXITED, code=1),)), (StopSandbox("b0"),)),
    ("its sidecars do not come again", look(inits("Never"), containers=(
        cell("one", state=EXITED), cell("side", state=EXITED, code=143), cell("two", state=EXITED, code=1))),
        (StopSandbox("b0"),)),
    ("a sidecar follows", look(inits(), containers=(cell("one", state=EXITED),)), (StartContainer("side", 0),)),
    ("until it has started", look(inits(), containers=(cell("one", state=EXITED), cell("side")),
        verdicts={"side-0": Verdict(started=False)}), ()),
    ("then the next", look(inits(), containers=(cell("one", state=EXITED), cell("side"))), (StartContainer("two", 0),)),
    ("then the pod's own", look(
        inits(), containers=(cell("one", state=EXITED), cell("side"), cell("two", state=EXITED))),
        (StartContainer("app", 0),)),
    ("a sidecar that ended is restarted beside them", look(inits(), containers=(
        cell("one", state=EXITED), cell("side", state=EXITED), cell("two", state=EXITED), cell())),
        (StartContainer("side", 1, ENDED),)),
    ("sidecars go when the others are done", look(inits("Never"), containers=(
        cell("one", state=EXITED), cell("side"), cell("two", state=EXITED), cell(state=EXITED))),
        (KillContainer("side-0", "side", NOW + 30, ""),)),
    ("one that was added to look into it starts first", look(debugged()), (StartContainer("look", 0),)),
    ("beside what runs", look(debugged(), containers=(cell(),)), (StartContainer("look", 0),)),
    ("even where nothing else can", look(
        debugged(initContainers=[{"name": "one", "image": "app:1"}]), containers=(cell("one"),)),
        (StartContainer("look", 0),)),
    ("never again", look(debugged(), containers=(cell(), cell("look", state=EXITED, code=1))), ()),
    ("also where the runtime has forgotten it", look(
        debugged(), containers=(cell(),), memory={"look": Memory(restart_count=0)}), ()),
    ("it does not keep the pod alive", look(
        debugged(restartPolicy="Never"), containers=(cell(state=EXITED), cell("look"))),
        (KillContainer("look-0", "look", NOW + 30, ""),)),
    ("a deletion kills the pod's own first", look(inits(), doom=GONE, containers=(
        cell("one", state=EXITED), cell("side"), cell("two", state=EXITED), cell())),
        (KillContainer("app-0", "app", NOW + 30, ""),)),
    ("then the sidecars", look(inits(), doom=GONE, containers=(cell("side"), cell(state=EXITED))),
        (KillContainer("side-0", "side", NOW + 30, ""),)),
    ("all at once otherwise", look(two(), doom=GONE, containers=(cell(), cell("log"))),
        (KillContainer("app-0", "app", NOW + 30, ""), KillContainer("log-0", "log", NOW + 30, ""))),
    ("not twice", look(doom=GONE, containers=(cell(),), killing={"app-0": NOW + 30}), ()),
    ("but sooner if asked to", look(
        doom=replace(GONE, deadline=NOW + 2), containers=(cell(),), killing={"app-0": NOW + 30}),
        (KillContainer("app-0", "app", NOW + 2, ""),)),
    ("then the sandbox goes", look(doom=GONE, containers=(cell(state=EXITED),)), (RemoveSandbox("b0"),)),
    ("then the volumes", look(doom=GONE, sandboxes=()), (UnmountVolumes(),)),
    ("then the object", look(doom=GONE, sandboxes=(), mounted=False), (Finish(),)),
    ("not while something starts", look(doom=GONE, sandboxes=(), mounted=False, busy=frozenset({"start"})), ()),
    ("an eviction stops the sandbox only", look(
        doom=Doom(NOW, "Evicted", failed=True), containers=(cell(state=EXITED),)), (StopSandbox("b0"),)),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "steps"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_next_steps(seen: Seen, steps: tuple[Step, ...]) -> None:
    assert plan(seen).steps == steps


def test_waiting_texts() -> None:
    crashed = look(
        containers=(cell(state=EXITED, code=1, at=NOW - 5),), memory={"app": Memory(crash=CrashBackoff(80, NOW - 6))}
    )
    out = plan(crashed)
    assert out.again == NOW + 75
    waiting = out.waiting["app"]
    assert waiting.reason == "CrashLoopBackOff"
    assert waiting.message == "back-off 1m20s restarting failed container=app pod=web_default(uid-web)"
    failure = StartFailure("ErrImagePull", "no such host", NOW - 3, NOW + 7, "app:1")
    waiting = plan(look(memory={"app": Memory(failure=failure)})).waiting["app"]
    assert (waiting.reason, waiting.message) == (
        "ImagePullBackOff", 'Back-off pulling image "app:1": ErrImagePull: no such host'
    )  # fmt: skip
    fresh = replace(failure, at=NOW - 1)
    assert plan(look(memory={"app": Memory(failure=fresh)})).again == NOW + 1


def test_the_crash_backoff_doubles_to_five_minutes_and_starts_over() -> None:
    state: CrashBackoff | None = None
    seconds = []
    now = NOW
    for _ in range(8):
        state = CrashBackoff.after(state, now, now)
        seconds.append(state.seconds)
        now = state.until(now + 1)
    assert seconds == [10, 20, 40, 80, 160, 300, 300, 300]
    # One that held for ten minutes is taken as healthy: it waits for nothing, and starts over.
    assert state is not None and state.until(state.at + 600) == state.at + 900
    assert state.until(state.at + 601) == state.at + 601
    assert CrashBackoff.after(state, state.at + 601, state.at + 601).seconds == 10


def test_the_active_deadline() -> None:
    pod = make_pod(activeDeadlineSeconds=10)
    pod.status.startTime = "1970-01-12T13:46:40Z"          # NOW
    assert plan(look(pod, containers=(cell(),))).again == NOW + 10
    late = plan(replace(look(pod, containers=(cell(),)), now=NOW + 10))
    assert late.doom is not None and late.doom.reason == "DeadlineExceeded"
    assert [type(step) for step in late.steps] == [KillContainer]


@pytest.mark.parametrize(("code", "rules", "again"), [
    (42, [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], True),
    (1, [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], False),
    (1, [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [42]}}], True),
])  # fmt: skip
def test_restart_rules_of_a_container(code: int, rules: list[Any], again: bool) -> None:
    container = {"name": "app", "image": "app:1", "restartPolicy": "Never", "restartPolicyRules": rules}
    seen = look(make_pod(containers=[container]), containers=(cell(state=EXITED, code=code),))
    assert any(isinstance(step, StartContainer) for step in plan(seen).steps) is again


# ------------------------------------------------------------------------------- it always comes to rest


@dataclass
class World:
    """Performs steps at once; containers end as their codes say, the last code for ever."""

    pod: core.Pod
    codes: dict[str, list[int]]
    now: float = NOW
    sandboxes: list[Sandbox] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    doom: Doom | None = None
    mounted: bool = False
    finished: bool = False

    def look(self) -> Seen:
        return Seen(
            self.pod, self.now, tuple(reversed(self.sandboxes)),
            tuple(sorted(self.containers, key=lambda c: -c.attempt)), memory=self.memory, doom=self.doom,
            mounted=self.mounted,
        )  # fmt: skip

    def act(self, step: Step) -> None:
        match step:
            case MountVolumes():
                self.mounted = True
            case UnmountVolumes():
                self.mounted = False
            case CreateSandbox(attempt):
                self.sandboxes.append(box(f"b{attempt}", attempt))
            case StopSandbox(id):
                self.sandboxes = [
                    replace(s, state=SandboxState.NOTREADY) if s.id == id else s for s in self.sandboxes
                ]
            case RemoveSandbox(id):
                self.sandboxes = [s for s in self.sandboxes if s.id != id]
                self.containers = [c for c in self.containers if c.sandbox_id != id]
            case StartContainer(name, attempt, crashed_at):
                assert self.mounted
                assert all(c.state is not RUNNING for c in self.containers if c.name == name)
                memory = self.memory.get(name, Memory())
                if crashed_at is not None:
                    self.memory[name] = replace(memory, crash=CrashBackoff.after(memory.crash, crashed_at, self.now))
                self.containers.append(cell(name, attempt, at=self.now, box=self.sandboxes[-1].id))
            case KillContainer(id):
                self._exit(id, 143)
            case RemoveContainer(id):
                self.containers = [c for c in self.containers if c.id != id]
            case Finish():
                assert not self.sandboxes and not self.containers and not self.mounted
                self.finished = True

    def _exit(self, id: str, code: int) -> None:
        self.containers = [
            replace(c, state=EXITED, exit_code=code, finished_at=self.now) if c.id == id and c.state is RUNNING else c
            for c in self.containers
        ]

    def advance(self, out: Plan) -> bool:
        """Let time pass until something happens; False if nothing ever will."""
        self.now += 1
        ended = False
        for container in self.containers:
            codes = self.codes.get(container.name)
            if container.state is RUNNING and codes:
                self._exit(container.id, codes.pop(0))
                ended = True
        if ended:
            return True
        if out.again is not None:
            self.now = max(self.now, out.again)
            return True
        return False


_codes = st.lists(st.sampled_from([0, 0, 1, 137]), max_size=4)
_pods = st.builds(
    lambda policy, inits, apps: make_pod(
        restartPolicy=policy,
        initContainers=[
            {"name": f"init-{n}", "image": "i", **({"restartPolicy": "Always"} if side else {})}
            for n, side in enumerate(inits)
        ],
        containers=[{"name": f"app-{n}", "image": "a"} for n in range(apps)],
    ),
    st.sampled_from(["Always", "OnFailure", "Never"]),
    st.lists(st.booleans(), max_size=3),
    st.integers(1, 3),
)


@settings(max_examples=150, deadline=None)
@given(_pods, st.data())
def test_every_pod_comes_to_rest_and_a_deleted_one_leaves_nothing(pod: core.Pod, data: st.DataObject) -> None:
    codes = {c.name: data.draw(_codes) for c in all_containers(pod.spec)}
    for container in all_containers(pod.spec):
        if container.name.startswith("init") and container.restartPolicy != "Always":
            codes[container.name] = [*codes[container.name], 0]      # in the end it succeeds
    world = World(pod, codes)
    delete_at = data.draw(st.integers(0, 30))
    for turn in range(400):
        if turn == delete_at:
            world.doom = Doom(world.now + 30, deleted=True)
        out = plan(world.look())
        for step in out.steps:
            world.act(step)
        if world.finished:
            return
        if not out.steps and not world.advance(out) and turn > delete_at:
            break
    raise AssertionError((world.look(), plan(world.look())))


@settings(max_examples=100, deadline=None)
@given(_pods, st.data())
def test_a_pod_whose_containers_end_reaches_a_fixed_point(pod: core.Pod, data: st.DataObject) -> None:
    codes = {c.name: data.draw(_codes) for c in all_containers(pod.spec)}
    for container in all_containers(pod.spec):
        if container.name.startswith("init") and container.restartPolicy != "Always":
            codes[container.name] = [*codes[container.name], 0]
    world = World(pod, codes)
    for _ in range(400):
        out = plan(world.look())
        for step in out.steps:
            world.act(step)
        if not out.steps and not world.advance(out):
            assert plan(world.look()).steps == ()
            return
    raise AssertionError("it never came to rest")
