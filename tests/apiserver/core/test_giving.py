"""Objects that parts of the server's process give away instead of sending their JSON."""

from __future__ import annotations

import msgspec
import pytest

from pinnace.api import codec, errors
from pinnace.api.batch import v1 as batch
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.client.transport import Request

from .conftest import Api

JOB = {
    "metadata": {"name": "work", "namespace": "default"},
    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
}


async def test_a_given_object_is_kept_and_not_decoded_again(api: Api) -> None:
    lease = coordination.Lease(
        metadata=meta.ObjectMeta(name="a", namespace="default"),
        spec=coordination.LeaseSpec(holderIdentity="joe", leaseDurationSeconds=40),
    )
    made = await api.client.create(lease, giving=True)
    assert made.spec is lease.spec and made.metadata.uid and made.metadata.resourceVersion
    assert not lease.metadata.uid, "the giver's metadata may be shared with others"
    renewed = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, holderIdentity="ann"))
    after = await api.client.update(renewed, giving=True)
    assert after.spec is renewed.spec and after.metadata.resourceVersion > made.metadata.resourceVersion
    assert renewed.metadata is made.metadata and made.spec.holderIdentity == "joe", "what was cached stays as it was"
    with pytest.raises(errors.Conflict):
        await api.client.update(renewed, giving=True)


async def test_of_a_given_status_the_rest_stays(api: Api) -> None:
    job = await api.client.create(codec.from_dict(batch.Job, JOB))
    spec = msgspec.structs.replace(job.spec, backoffLimit=99)
    status = batch.JobStatus(active=1)
    after = await api.client.update(
        msgspec.structs.replace(job, spec=spec, status=status), subresource="status", giving=True
    )
    assert after.status is status and after.spec is job.spec and job.status.active is None
    assert after.metadata.generation == 1


async def test_what_is_given_is_judged_as_what_is_sent(api: Api) -> None:
    job = await api.client.create(codec.from_dict(batch.Job, JOB))
    bad = msgspec.structs.replace(job, status=batch.JobStatus(active=-1))
    with pytest.raises(errors.Invalid, match=r"status\.active: Invalid value: -1"):
        await api.client.update(bad, subresource="status", giving=True)
    assert (await api.client.get(batch.Job, "work", "default")) is job


async def test_what_is_given_has_the_kind_that_the_path_names(api: Api) -> None:
    thing = core.Secret(metadata=meta.ObjectMeta(name="a"))
    answer = await api.server.handle(
        Request("POST", "/api/v1/namespaces/default/configmaps", given=thing), encoded=False
    )
    assert answer.status == 400


def test_over_a_wire_goes_its_json() -> None:
    lease = coordination.Lease(metadata=meta.ObjectMeta(name="a"))
    assert Request("POST", "/", given=lease).text() == codec.encode(lease)
    assert Request("POST", "/", body=b"{}").text() == b"{}"
