"""Kinds that are questions: who am I, may I, whose token is this. Answered at once and never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pinnace.api.authentication import v1 as authentication
from pinnace.api.authorization import v1 as authorization
from pinnace.api.errors import BadRequest, Unauthorized
from pinnace.api.fields import FieldError, invalid
from pinnace.api.kinds import kind_of
from pinnace.apiserver.access import MASTERS, AnyOf, Attributes
from pinnace.apiserver.authentication.tokens import TokenAuthenticator
from pinnace.apiserver.resource import Action, Resource
from pinnace.apiserver.resources import actions
from pinnace.apiserver.resources.strategy import CREATE_ONLY
from pinnace.client.transport import Request, User


def _info(user: User) -> authentication.UserInfo:
    return authentication.UserInfo(
        username=user.name,
        uid=user.uid or None,
        groups=list(user.groups) or None,
        extra={key: list(values) for key, values in user.extra.items()} or None,
    )


async def answer_self_review(
    action: Action, review: authentication.SelfSubjectReview
) -> authentication.SelfSubjectReview:
    review.status.userInfo = _info(action.context.user)
    return review


async def answer_token_review(
    action: Action, review: authentication.TokenReview
) -> authentication.TokenReview:
    if not review.spec.token:
        raise BadRequest("token is required for TokenReview in authentication")
    review.status = authentication.TokenReviewStatus()
    wanted = tuple(review.spec.audiences or ())
    try:
        user, audiences = await _token_user(action, review.spec.token, wanted)
    except Unauthorized as error:
        why = "invalid bearer token" if error.message == "Unauthorized" else error.message
        review.status.error = f"[{why}, {why}]" if why == "invalid bearer token" else why
        return review
    if user is None:
        return review
    review.status.authenticated = True
    review.status.user = _info(user)
    review.status.audiences = list(audiences) or None
    return review


async def _token_user(
    action: Action, token: str, wanted: tuple[str, ...]
) -> tuple[User | None, tuple[str, ...]]:
    """Our issuer's tokens may be asked about for any audience; all others are for the API server only."""
    server = action.server
    issuer = server.token_issuer
    if issuer is not None:
        try:
            return TokenAuthenticator(issuer, server.objects, server.clock).check(token, wanted or issuer.audiences)
        except Unauthorized:
            if wanted and not set(wanted) & set(issuer.audiences):
                raise
    request = Request("GET", "/", headers={"authorization": f"Bearer {token}"})
    return await server.authenticator.authenticate(request), issuer.audiences if issuer is not None else wanted


def attributes_of(
    user: User,
    resource: authorization.ResourceAttributes | None,
    path: authorization.NonResourceAttributes | None,
) -> Attributes:
    if resource is not None:
        fields, labels = resource.fieldSelector, resource.labelSelector
        return Attributes(
            user,
            resource.verb or "",
            resource.group or "",
            resource.version or "",
            resource.resource or "",
            resource.subresource or "",
            resource.namespace or "",
            resource.name or "",
            field_selector=(fields.rawSelector if fields is not None else None) or "",
            label_selector=(labels.rawSelector if labels is not None else None) or "",
        )
    return Attributes(
        user,
        (path.verb if path is not None else None) or "",
        path=(path.path if path is not None else None) or "",
    )


def _decide(action: Action, attributes: Attributes) -> authorization.SubjectAccessReviewStatus:
    if MASTERS in attributes.user.groups:
        return authorization.SubjectAccessReviewStatus(allowed=True)
    decision = action.server.authorizer.authorize(attributes)
    return authorization.SubjectAccessReviewStatus(allowed=decision.allowed, reason=decision.reason or None)


def _validate_access(spec: Any, path: str = "spec") -> Iterator[FieldError]:
    if spec.resourceAttributes is not None and spec.nonResourceAttributes is not None:
        yield invalid(
            f"{path}.nonResourceAttributes",
            spec.nonResourceAttributes,
            "cannot be specified in combination with resourceAttributes",
        )
    if spec.resourceAttributes is None and spec.nonResourceAttributes is None:
        yield invalid(
            f"{path}.resourceAttributes",
            spec.resourceAttributes,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )


def validate_subject(spec: authorization.SubjectAccessReviewSpec) -> Iterator[FieldError]:
    yield from _validate_access(spec)
    if not spec.user and not spec.groups:
        yield invalid("spec.user", spec.user or "", "at least one of user or group must be specified")


def _subject(spec: authorization.SubjectAccessReviewSpec) -> User:
    return User(
        spec.user or "",
        spec.uid or "",
        tuple(spec.groups or ()),
        {key: tuple(values) for key, values in (spec.extra or {}).items()},
    )


async def answer_self_access(
    action: Action, review: authorization.SelfSubjectAccessReview
) -> authorization.SelfSubjectAccessReview:
    actions.refuse(kind_of(review), "", _validate_access(review.spec))
    spec = review.spec
    review.status = _decide(
        action, attributes_of(action.context.user, spec.resourceAttributes, spec.nonResourceAttributes)
    )
    return review


async def answer_access(
    action: Action, review: authorization.SubjectAccessReview
) -> authorization.SubjectAccessReview:
    actions.refuse(kind_of(review), "", validate_subject(review.spec))
    spec = review.spec
    review.status = _decide(
        action, attributes_of(_subject(spec), spec.resourceAttributes, spec.nonResourceAttributes)
    )
    return review


def validate_local(review: authorization.LocalSubjectAccessReview, namespace: str) -> Iterator[FieldError]:
    yield from validate_subject(review.spec)
    attributes = review.spec.resourceAttributes
    if attributes is not None and (attributes.namespace or "") != namespace:
        yield invalid(
            "spec.resourceAttributes.namespace", attributes.namespace or "", "must match metadata.namespace"
        )
    if review.spec.nonResourceAttributes is not None:
        yield invalid(
            "spec.nonResourceAttributes",
            review.spec.nonResourceAttributes,
            "disallowed on this kind of request",
        )


async def answer_local(
    action: Action, review: authorization.LocalSubjectAccessReview
) -> authorization.LocalSubjectAccessReview:
    actions.refuse(kind_of(review), "", validate_local(review, action.namespace))
    spec = review.spec
    review.status = _decide(
        action, attributes_of(_subject(spec), spec.resourceAttributes, spec.nonResourceAttributes)
    )
    return review


async def answer_rules(
    action: Action, review: authorization.SelfSubjectRulesReview
) -> authorization.SelfSubjectRulesReview:
    namespace = review.spec.namespace or ""
    if not namespace:
        raise BadRequest("no namespace on request")
    review.status = authorization.SubjectRulesReviewStatus()
    sources = list(_rule_sources(action.server.authorizer))
    for rules in sources:
        for rule in rules(action.context.user, namespace):
            if rule.nonResourceURLs:
                review.status.nonResourceRules.append(
                    authorization.NonResourceRule(verbs=rule.verbs, nonResourceURLs=rule.nonResourceURLs)
                )
            else:
                review.status.resourceRules.append(
                    authorization.ResourceRule(
                        verbs=rule.verbs,
                        apiGroups=rule.apiGroups,
                        resources=rule.resources,
                        resourceNames=rule.resourceNames,
                    )
                )
    # An authorizer that cannot list its rules may allow more than what is said here.
    review.status.incomplete = not sources
    return review


def _rule_sources(authorizer: Any) -> Iterator[Callable[[User, str], Any]]:
    parts = authorizer._authorizers if isinstance(authorizer, AnyOf) else (authorizer,)
    for part in parts:
        rules = getattr(part, "rules", None)
        if rules is not None:
            yield rules


def _question(kind: type[Any], answer: Any) -> Resource[Any]:
    return Resource(kind=kind_of(kind), verbs=CREATE_ONLY, answer=answer, generation=False)


RESOURCES = (
    _question(authentication.SelfSubjectReview, answer_self_review),
    _question(authentication.TokenReview, answer_token_review),
    _question(authorization.LocalSubjectAccessReview, answer_local),
    _question(authorization.SelfSubjectAccessReview, answer_self_access),
    _question(authorization.SelfSubjectRulesReview, answer_rules),
    _question(authorization.SubjectAccessReview, answer_access),
)
