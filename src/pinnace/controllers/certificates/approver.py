"""Approves requests of nodes for their client certificates, if they may ask for them: upstream's csrapproving.

A loop of its own instead of a plan, since it asks the server who may (a SubjectAccessReview) before it decides. What it
asks, and what it writes, is pure.
"""

from __future__ import annotations

import logging

import msgspec

from pinnace.api import errors
from pinnace.api.authorization import v1 as authorization
from pinnace.api.certificates import v1 as certificates
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.base.workqueue import WorkQueue
from pinnace.client.client import Client
from pinnace.client.informer import Event, Informers, revision_number
from pinnace.controllers.certificates.requests import (
    APPROVED,
    DENIED,
    KUBELET_CLIENT,
    Csr,
    common_name,
    has,
    kubelet_client,
    parse,
)

log = logging.getLogger("pinnace.controllers")

_WORKERS = 5


class Permission(msgspec.Struct, frozen=True):
    """The subresource of certificatesigningrequests that the asker must be allowed to create, and what is said
    then."""

    subresource: str
    message: str


SELF = Permission("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
ANY = Permission("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")


class CsrApprover:
    name = "csrapproving"

    def __init__(self, informers: Informers, client: Client, clock: Clock) -> None:
        self._informer = informers.of(Csr)
        self._client = client
        self.queue: WorkQueue[str] = WorkQueue(clock, Backoff(initial=0.2, maximum=1000.0))

    @property
    def idle(self) -> bool:
        return self.queue.idle and self._informer.cache.synced

    async def run(self) -> None:
        unsubscribe = self._informer.subscribe(self._changed)
        try:
            await self._informer.wait_synced()
            await self.queue.serve(self._work, most=_WORKERS, name=self.name)
        finally:
            unsubscribe()
            self.queue.close()

    def _changed(self, event: Event[Csr]) -> None:
        if event.new is not None and undecided(event.new):
            self.queue.add(event.new.metadata.name or "")

    async def _work(self, name: str) -> None:
        request = self._informer.cache.get("", name)
        if request is None or not undecided(request):
            self.queue.forget(name)
            return
        try:
            tried = await self._approve(request)
        except (errors.StatusError, OSError, TimeoutError) as error:
            log.info("%s: %s: %s; again in %.3g s", self.name, name, error, self.queue.retry(name))
            return
        if tried:      # the right may yet be given
            self.queue.retry(name)
            log.debug("%s: %s: recognized as %s, but access review was not approved", self.name, name, tried)
        else:
            self.queue.forget(name)

    async def _approve(self, request: Csr) -> list[str]:
        """Approve it if that can be; returns what the asker was not allowed, nothing if that is the end of it."""
        client = self._client.acting_for(request)
        because = (revision_number(request.metadata.resourceVersion),)
        tried = []
        for permission in permissions(request):
            answer = await client.create(question(request, permission), because=because)
            if answer.status is not None and answer.status.allowed:
                await client.update(approval(request, permission), subresource="approval", because=because)
                return []
            tried.append(permission.subresource)
        return tried


def undecided(request: Csr) -> bool:
    return (
        request.spec.signerName == KUBELET_CLIENT and not request.status.certificate
        and not has(request, APPROVED, DENIED)
    )  # fmt: skip


def permissions(request: Csr) -> list[Permission]:
    """Each of which is enough for the request to be approved; none for what is not a kubelet's."""
    asked = parse(request)
    if asked is None or kubelet_client(asked, request.spec.usages or ()):
        return []
    return [SELF, ANY] if request.spec.username == common_name(asked) else [ANY]


def question(request: Csr, permission: Permission) -> authorization.SubjectAccessReview:
    """Whether whoever made the request is allowed that."""
    spec = request.spec
    return authorization.SubjectAccessReview(
        spec=authorization.SubjectAccessReviewSpec(
            user=spec.username, uid=spec.uid, groups=spec.groups, extra=spec.extra,
            resourceAttributes=authorization.ResourceAttributes(
                group="certificates.k8s.io", resource="certificatesigningrequests", verb="create",
                subresource=permission.subresource,
            ),
        )
    )  # fmt: skip


def approval(request: Csr, permission: Permission) -> Csr:
    condition = certificates.CertificateSigningRequestCondition(
        type=APPROVED, status="True", reason="AutoApproved", message=permission.message
    )
    conditions = [*(request.status.conditions or ()), condition]
    return msgspec.structs.replace(request, status=msgspec.structs.replace(request.status, conditions=conditions))
