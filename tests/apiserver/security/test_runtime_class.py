"""A pod's runtime class: it must exist, and lends the pod its overhead, selector and tolerations."""

from __future__ import annotations

from typing import Any

import pytest

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden
from pinnace.api.node import v1 as node
from pinnace.apiserver.admission.runtime_class import RuntimeClassAdmission

from .world import World, admission, user

ANN = user("ann")
KATA = {
    "metadata": {"name": "kata"},
    "handler": "kata",
    "overhead": {"podFixed": {"memory": "64Mi"}},
    "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
}


def pod(**spec: Any) -> core.Pod:
    return codec.from_dict(core.Pod, {"metadata": {"name": "p", "namespace": "default"}, "spec": spec})


async def admitted(made: core.Pod) -> core.Pod:
    plugin = RuntimeClassAdmission(World(codec.from_dict(node.RuntimeClass, KATA)))
    await plugin.mutate(admission(ANN, "CREATE", made))
    await plugin.validate(admission(ANN, "CREATE", made))
    return made


async def test_the_class_lends_what_it_has() -> None:
    spec = (await admitted(pod(runtimeClassName="kata", nodeSelector={"disk": "ssd"}))).spec
    assert (spec.overhead, spec.nodeSelector) == ({"memory": "64Mi"}, {"disk": "ssd", "vm": "yes"})
    assert [toleration.key for toleration in spec.tolerations or ()] == ["vm"]


async def test_a_pod_without_a_class_is_left_alone() -> None:
    assert (await admitted(pod())).spec == pod().spec


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"runtimeClassName": "none"}, 'pods "p" is forbidden: pod rejected: RuntimeClass "none" not found'),
        ({"runtimeClassName": "kata", "overhead": {"memory": "1Mi"}}, "doesn't match RuntimeClass's defined Overhead"),
        ({"overhead": {"memory": "1Mi"}}, "without corresponding RuntimeClass defined Overhead"),
        ({"runtimeClassName": "kata", "nodeSelector": {"vm": "no"}}, "conflict: runtimeClass.scheduling.nodeSelector"),
    ],
)
async def test_refusals(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(Forbidden, match=why):
        await admitted(pod(**spec))
