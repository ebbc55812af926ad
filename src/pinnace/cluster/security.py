"""The API server's security, put together: who may come in, what they may do, what is done to their writes."""

from __future__ import annotations

import msgspec

from pinnace.api import times
from pinnace.api.authentication import v1 as authentication
from pinnace.api.core import v1 as core
from pinnace.apiserver.access import AnyOf
from pinnace.apiserver.admission.escalation import EscalationCheck
from pinnace.apiserver.admission.lifecycle import NamespaceLifecycle
from pinnace.apiserver.admission.node_restriction import NodeRestriction
from pinnace.apiserver.admission.priority import PriorityAdmission
from pinnace.apiserver.admission.service_account import ServiceAccountAdmission
from pinnace.apiserver.admission.tolerations import DefaultTolerationSeconds, TaintNodesByCondition
from pinnace.apiserver.authentication.certificates import CertificateAuthenticator
from pinnace.apiserver.authentication.chain import AuthenticatorChain
from pinnace.apiserver.authentication.tokens import Bound, TokenAuthenticator, TokenIssuer
from pinnace.apiserver.authorization.node import NodeAuthorizer
from pinnace.apiserver.authorization.rbac import RbacAuthorizer
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness


def secure(server: ApiServer, issuer: TokenIssuer, clock: Clock, randomness: Randomness) -> None:
    """Give the server its authenticators, authorizers, admission plugins and token issuer; before its start."""
    objects = server.objects
    tokens = TokenAuthenticator(issuer, objects, clock)
    server.authenticator = AuthenticatorChain((CertificateAuthenticator(clock), tokens))
    rbac = RbacAuthorizer(objects)
    server.authorizer = AnyOf((NodeAuthorizer(objects), rbac))
    server.admission = (
        NamespaceLifecycle(objects),
        TaintNodesByCondition(),
        ServiceAccountAdmission(objects, randomness.fork()),
        NodeRestriction(objects),
        PriorityAdmission(objects),
        DefaultTolerationSeconds(),
        EscalationCheck(objects, rbac, server.authorizer),
    )
    server.token_issuer = TokenRequests(issuer, server)
    server.documents.extra["/openid/v1/jwks"] = issuer.jwks
    server.documents.extra["/.well-known/openid-configuration"] = issuer.discovery


class TokenRequests:
    """Answers TokenRequest from the issuer."""

    def __init__(self, issuer: TokenIssuer, server: ApiServer) -> None:
        self._issuer = issuer
        self._server = server

    async def issue(
        self,
        account: core.ServiceAccount,
        request: authentication.TokenRequest,
        bound: core.Pod | core.Secret | core.Node | None,
    ) -> authentication.TokenRequest:
        """The request with its status filled in. A pod's token names the pod's node too (KEP-4193)."""
        token = self._issuer.issue(
            account.metadata.namespace or "",
            _bound(account),
            audiences=request.spec.audiences or (),
            seconds=request.spec.expirationSeconds or 3600,
            pod=_bound(bound) if isinstance(bound, core.Pod) else None,
            node=self._node(bound),
            secret=_bound(bound) if isinstance(bound, core.Secret) else None,
        )
        status = authentication.TokenRequestStatus(token=token.text, expirationTimestamp=times.format(token.expires))
        spec = msgspec.structs.replace(request.spec, audiences=list(request.spec.audiences or self._issuer.audiences))
        return msgspec.structs.replace(request, spec=spec, status=status)

    def _node(self, bound: core.Pod | core.Secret | core.Node | None) -> Bound | None:
        if isinstance(bound, core.Node):
            return _bound(bound)
        if isinstance(bound, core.Pod) and bound.spec.nodeName:
            node = self._server.objects.get(core.Node, "", bound.spec.nodeName)
            return _bound(node) if node is not None else None
        return None


def _bound(found: core.ServiceAccount | core.Pod | core.Secret | core.Node) -> Bound:
    return Bound(found.metadata.name or "", found.metadata.uid or "")
