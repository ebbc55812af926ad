"""What a pod worker wants to be the pod's status is what the API has in the end."""

from __future__ import annotations

import msgspec

from pinnace.api.core import v1 as core
from pinnace.base.clock import LoopClock
from pinnace.client.transport import Request, Response
from pinnace.kubelet.status_writer import StatusWriter

from .fakes import FakeApi, make_pod
from .virtual import simulate


class Lossy(FakeApi):
    """Makes the first so many writes of a status, and loses the answers."""

    lost = 0

    async def send(self, request: Request) -> Response:
        answer = await super().send(request)
        if request.method == "PATCH" and self.lost:
            self.lost -= 1
            raise ConnectionResetError("connection reset by peer")
        return answer


def status(phase: str, ready: str) -> core.PodStatus:
    return core.PodStatus(phase=phase, conditions=[core.PodCondition(type="Ready", status=ready)])


def test_a_status_whose_answer_was_lost_does_not_stay() -> None:
    async def test(clock: LoopClock) -> None:
        api = Lossy()
        pod = make_pod(nodeName="node-1")
        pod.status = status("Pending", "True")
        api.add_pod(pod)
        known = api.pod()
        assert known is not None
        writer = StatusWriter(api.client(), clock, known)
        api.lost = 1
        writer.put(status("Pending", "False"))
        await clock.sleep(0.1)                       # it is there, but the writer does not know
        writer.put(status("Running", "True"))
        await writer.flush()
        found = api.pod()
        assert found is not None and msgspec.to_builtins(found.status) == msgspec.to_builtins(status("Running", "True"))

    simulate(test)
