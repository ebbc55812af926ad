"""Pod specs that were judged before: what is remembered of them, and what must not be mistaken for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, required
from pinnace.apiserver.resources.podspec.known import GoodSpecs

POD = """
metadata: {name: web, namespace: default}
spec:
  containers:
  - {name: web, image: "nginx:1.25", volumeMounts: [{name: kube-api-access-bbbbb, mountPath: /a}]}
  volumes:
  - {name: kube-api-access-bbbbb, emptyDir: {}}
"""
UNDER_ANOTHER_NAME = POD.replace("-bbbbb", "-22222")


class Judge:
    """Rules that want an image, and count how often they are asked."""

    def __init__(self) -> None:
        self.good = GoodSpecs()
        self.asked = 0

    def __call__(self, spec: core.PodSpec, path: str = "spec") -> list[str]:
        return [finding.field for finding in self.good.judge(self._rules, spec, path)]

    def _rules(self, spec: core.PodSpec, path: str) -> Iterator[FieldError]:
        self.asked += 1
        if not spec.containers[0].image:
            yield required(f"{path}.image")


def spec(image: str | None = "nginx", volume: str = "data", **more: Any) -> core.PodSpec:
    return core.PodSpec(
        containers=[core.Container(name="web", image=image)], volumes=[core.Volume(name=volume)], **more
    )


def test_what_is_equal_to_something_good_is_not_judged_again() -> None:
    judge = Judge()
    assert [judge(spec()), judge(spec()), judge(spec("nginx"), "elsewhere")] == [[], [], []]
    assert judge.asked == 1
    assert judge(spec(hostname="h")) == judge(spec("httpd")) == []
    assert judge.asked == 3


def test_what_is_bad_is_judged_each_time_and_where_it_stands() -> None:
    judge = Judge()
    assert [judge(spec(None)), judge(spec(None)), judge(spec(None), "there")] == [
        ["spec.image"], ["spec.image"], ["there.image"]
    ]  # fmt: skip


def test_a_spec_that_was_good_is_judged_again_after_it_has_changed() -> None:
    judge, changed = Judge(), spec()
    judge(changed)
    changed.containers[0].image = None
    assert judge(changed) == ["spec.image"]


def test_the_name_of_the_tokens_volume_makes_no_difference() -> None:
    judge = Judge()
    for name in ("kube-api-access-bbbbb", "kube-api-access-22222", "kube-api-access-x2y4z"):
        judge(spec(volume=name))
    assert judge.asked == 1
    for name in ("kube-api-access-long-1", "kube-api-access-BBBBB", "kube-api-access-2222", "kube-api-access-bbbbbb"):
        judge(spec(volume=name))
    assert judge.asked == 5


def test_the_memory_is_bounded_in_number_and_in_size() -> None:
    judge = Judge()
    for number in range(3000):
        judge(spec(hostname=str(number)))
    assert judge.asked == 3000
    judge(spec(hostname="2999"))
    assert judge.asked == 3000
    long = spec(hostname="x" * 10_000)
    judge(long)
    judge(long)
    assert judge.asked == 3002


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        # One of the two names is another: then they are not equal any more.
        (POD.replace("- {name: kube-api-access-bbbbb", "- {name: kube-api-access-ccccc"), ["bbbbb"]),
        (POD.replace("[{name: kube-api-access-bbbbb", "[{name: kube-api-access-ccccc"), ["ccccc"]),
    ],
)
def test_a_mount_of_a_volume_that_is_not_there_is_found(rows: Any, bad: str, expected: list[str]) -> None:
    assert rows.errors("pods", POD) == rows.errors("pods", UNDER_ANOTHER_NAME) == []
    assert rows.errors("pods", bad) == [
        f'spec.containers[0].volumeMounts[0].name: Not found: "kube-api-access-{name}"' for name in expected
    ]


def test_two_such_volumes_may_not_have_one_name(rows: Any) -> None:
    second = "\n  - {name: kube-api-access-ccccc, emptyDir: {}}\n"
    assert rows.errors("pods", POD.rstrip() + second) == []
    assert rows.errors("pods", UNDER_ANOTHER_NAME.rstrip() + second.replace("ccccc", "22222")) == [
        'spec.volumes[1].name: Duplicate value: "kube-api-access-22222"'
    ]


def test_a_claim_that_is_named_after_the_pod_is_judged_with_its_name(rows: Any) -> None:
    thing = yaml.safe_load(POD)
    claim = {"volumeClaimTemplate": {"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem",
    }}}  # fmt: skip
    thing["spec"]["volumes"].append({"name": "scratch", "ephemeral": claim})
    assert rows.errors("pods", yaml.safe_dump(thing)) == []
    thing["metadata"]["name"] = "a" * 250
    assert any("PVC name" in text for text in rows.errors("pods", yaml.safe_dump(thing)))


def test_what_is_good_for_a_template_may_be_bad_for_a_pod(rows: Any) -> None:
    padded = {"containers": [{"name": "web", "image": " nginx "}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": padded}
    deployment = {"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": template,
    }}  # fmt: skip
    pod = {"metadata": {"name": "web", "namespace": "default"}, "spec": padded}
    for _ in range(2):
        assert rows.errors("deployments.apps", yaml.safe_dump(deployment)) == []
        assert rows.errors("pods", yaml.safe_dump(pod)) == [
            'spec.containers[0].image: Invalid value: " nginx ": must not have leading or trailing whitespace'
        ]
