"""The API server's security, put together: who may come in, what they may do, what is done to their writes."""

from __future__ import annotations

from pinnace.apiserver.access import AnyOf
from pinnace.apiserver.admission.certificates import CertificateRequests
from pinnace.apiserver.admission.escalation import EscalationCheck
from pinnace.apiserver.admission.lifecycle import NamespaceLifecycle
from pinnace.apiserver.admission.node_restriction import NodeRestriction
from pinnace.apiserver.admission.priority import PriorityAdmission
from pinnace.apiserver.admission.runtime_class import RuntimeClassAdmission
from pinnace.apiserver.admission.service_account import ServiceAccountAdmission
from pinnace.apiserver.admission.tolerations import DefaultTolerationSeconds, TaintNodesByCondition
from pinnace.apiserver.authentication.certificates import CertificateAuthenticator
from pinnace.apiserver.authentication.chain import AuthenticatorChain
from pinnace.apiserver.authentication.tokens import TokenAuthenticator, TokenIssuer
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
    server.authorizer = AnyOf((rbac, NodeAuthorizer(objects)))      # most requests are not a node's
    server.admission = (
        NamespaceLifecycle(objects),
        TaintNodesByCondition(),
        ServiceAccountAdmission(objects, randomness.fork()),
        NodeRestriction(objects, server.authorizer),
        PriorityAdmission(objects),
        DefaultTolerationSeconds(),
        RuntimeClassAdmission(objects),
        EscalationCheck(objects, rbac, server.authorizer),
        CertificateRequests(server.authorizer),
    )
    server.token_issuer = issuer
    server.documents.extra["/openid/v1/jwks"] = issuer.jwks
    server.documents.extra["/.well-known/openid-configuration"] = issuer.discovery
