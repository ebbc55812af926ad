"""Webhook configurations and admission policies: served and checked here; calling them is admission's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pinnace.api.admissionregistration import v1 as admission
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, UNSET, column
from pinnace.apiserver.resources.selectors import validate_selector
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

Webhook = admission.MutatingWebhook | admission.ValidatingWebhook
OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
SCOPES = ("*", "Cluster", "Namespaced")


def _default_webhooks(configuration: Any) -> None:
    for webhook in configuration.webhooks or ():
        if webhook.failurePolicy is None:
            webhook.failurePolicy = "Fail"
        if webhook.matchPolicy is None:
            webhook.matchPolicy = "Equivalent"
        if webhook.namespaceSelector is None:
            webhook.namespaceSelector = meta.LabelSelector()
        if webhook.objectSelector is None:
            webhook.objectSelector = meta.LabelSelector()
        if webhook.timeoutSeconds is None:
            webhook.timeoutSeconds = 10
        if isinstance(webhook, admission.MutatingWebhook) and webhook.reinvocationPolicy is None:
            webhook.reinvocationPolicy = "Never"
        if webhook.clientConfig.service is not None and webhook.clientConfig.service.port is None:
            webhook.clientConfig.service.port = 443
        for rule in webhook.rules or ():
            if rule.scope is None:
                rule.scope = "*"


def _validate_webhooks(configuration: Any) -> Iterator[FieldError]:
    names: set[str] = set()
    for i, webhook in enumerate(configuration.webhooks or ()):
        path = f"webhooks[{i}]"
        yield from _webhook(webhook, path)
        if webhook.name in names:
            yield duplicate(f"{path}.name", webhook.name)
        names.add(webhook.name)


def _webhook(webhook: Webhook, path: str) -> Iterator[FieldError]:
    if not webhook.name:
        yield required(f"{path}.name")
    else:
        bad = rules.dns_subdomain(f"{path}.name", webhook.name)
        yield from bad
        if not bad and webhook.name.count(".") < 2:
            yield invalid(
                f"{path}.name", webhook.name, "should be a domain with at least three segments separated by dots"
            )
    for i, rule in enumerate(webhook.rules or ()):
        yield from _rule(rule, f"{path}.rules[{i}]")
    for word, known in (
        ("failurePolicy", ("Fail", "Ignore")), ("matchPolicy", ("Equivalent", "Exact")),
        ("sideEffects", ("None", "NoneOnDryRun")),
    ):  # fmt: skip
        value = getattr(webhook, word)
        if word == "sideEffects" and not value:
            yield required(f"{path}.sideEffects", 'must specify one of "None", "NoneOnDryRun"')
        elif value is not None and value not in known:
            yield not_supported(f"{path}.{word}", value, known)
    seconds = webhook.timeoutSeconds
    if seconds is not None and not 1 <= seconds <= 30:
        yield invalid(f"{path}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds")
    if not webhook.admissionReviewVersions:
        yield required(f"{path}.admissionReviewVersions", "must specify one of v1, v1beta1")
    elif not {"v1", "v1beta1"} & set(webhook.admissionReviewVersions):
        yield invalid(
            f"{path}.admissionReviewVersions",
            webhook.admissionReviewVersions,
            "must include at least one of v1, v1beta1",
        )
    for word in ("namespaceSelector", "objectSelector"):
        selector = getattr(webhook, word)
        if selector is not None:
            yield from validate_selector(selector, f"{path}.{word}")
    yield from _client(webhook.clientConfig, f"{path}.clientConfig")
    yield from _conditions(webhook.matchConditions, f"{path}.matchConditions")


def _client(config: admission.WebhookClientConfig, path: str) -> Iterator[FieldError]:
    if (config.url is None) == (config.service is None):
        yield required(path, "exactly one of url or service is required")
    if config.url is not None and not config.url.startswith("https://"):
        yield invalid(f"{path}.url", config.url, "'https' is the only allowed URL scheme; desired format: https://host[/path]")
    if config.service is not None:
        if not config.service.name:
            yield required(f"{path}.service.name", "service name is required")
        if not config.service.namespace:
            yield required(f"{path}.service.namespace", "service namespace is required")
        port = config.service.port
        if port is not None and not 1 <= port <= 65535:
            yield invalid(
                f"{path}.service.port", port, "port is not valid: must be between 1 and 65535, inclusive"
            )


def _conditions(conditions: list[admission.MatchCondition] | None, path: str) -> Iterator[FieldError]:
    names: set[str] = set()
    if len(conditions or ()) > 64:
        yield FieldError("FieldValueTooMany", path, len(conditions or ()), "must have at most 64 items")
    for i, condition in enumerate(conditions or ()):
        if not condition.expression.strip():
            yield required(f"{path}[{i}].expression")
        if not condition.name:
            yield required(f"{path}[{i}].name")
        else:
            yield from rules.qualified_name(f"{path}[{i}].name", condition.name)
        if condition.name in names:
            yield duplicate(f"{path}[{i}].name", condition.name)
        names.add(condition.name)


def _rule(rule: admission.RuleWithOperations | admission.NamedRuleWithOperations, path: str) -> Iterator[FieldError]:
    for word in ("apiGroups", "apiVersions", "resources", "operations"):
        values: Sequence[str] = getattr(rule, word) or ()
        if not values:
            yield required(f"{path}.{word}")
        if word in ("apiGroups", "apiVersions", "operations") and len(values) > 1 and "*" in values:
            yield invalid(
                f"{path}.{word}", values, f"if '*' is present, must not specify other {_PLURAL[word]}"
            )
    for i, operation in enumerate(rule.operations or ()):
        if operation not in OPERATIONS:
            yield not_supported(f"{path}.operations[{i}]", operation, OPERATIONS)
    if rule.scope is not None and rule.scope not in SCOPES:
        yield not_supported(f"{path}.scope", rule.scope, SCOPES)


_PLURAL = {"apiGroups": "API groups", "apiVersions": "API versions", "operations": "operations"}


def _webhook_count(configuration: Any) -> int:
    return len(configuration.webhooks or ())


WEBHOOK_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Webhooks", _webhook_count, "How many there are.", type="integer"),
    AGE,
)


def _default_match(match: admission.MatchResources | None) -> None:
    if match is None:
        return
    if match.matchPolicy is None:
        match.matchPolicy = "Equivalent"
    if match.namespaceSelector is None:
        match.namespaceSelector = meta.LabelSelector()
    if match.objectSelector is None:
        match.objectSelector = meta.LabelSelector()
    for rule in (*(match.resourceRules or ()), *(match.excludeResourceRules or ())):
        if rule.scope is None:
            rule.scope = "*"


def _default_policy(policy: Any) -> None:
    if policy.spec.failurePolicy is None:
        policy.spec.failurePolicy = "Fail"
    _default_match(policy.spec.matchConstraints)


def _default_binding(binding: Any) -> None:
    _default_match(binding.spec.matchResources)


def _validate_policy(policy: Any) -> Iterator[FieldError]:
    spec = policy.spec
    if spec.failurePolicy not in ("Fail", "Ignore"):
        yield not_supported("spec.failurePolicy", spec.failurePolicy, ("Fail", "Ignore"))
    if spec.paramKind is not None:
        if not spec.paramKind.apiVersion:
            yield required("spec.paramKind.apiVersion")
        if not spec.paramKind.kind:
            yield required("spec.paramKind.kind")
    match = spec.matchConstraints
    if match is None:
        yield required("spec.matchConstraints")
    else:
        if not match.resourceRules:
            yield required("spec.matchConstraints.resourceRules")
        for i, rule in enumerate(match.resourceRules or ()):
            yield from _rule(rule, f"spec.matchConstraints.resourceRules[{i}]")
    yield from _conditions(spec.matchConditions, "spec.matchConditions")
    names: set[str] = set()
    for i, variable in enumerate(spec.variables or ()):
        if not variable.name:
            yield required(f"spec.variables[{i}].name", "name is not specified")
        if not variable.expression:
            yield required(f"spec.variables[{i}].expression", "expression is not specified")
        if variable.name in names:
            yield duplicate(f"spec.variables[{i}].name", variable.name)
        names.add(variable.name)


def _validate_validating(policy: admission.ValidatingAdmissionPolicy) -> Iterator[FieldError]:
    yield from _validate_policy(policy)
    spec = policy.spec
    if not spec.validations and not spec.auditAnnotations:
        yield required("spec.validations", "validations or auditAnnotations must be specified")
        yield required("spec.auditAnnotations", "validations or auditAnnotations must be specified")
    for i, validation in enumerate(spec.validations or ()):
        if not validation.expression.strip():
            yield required(f"spec.validations[{i}].expression", "expression is not specified")


def _validate_mutating(policy: admission.MutatingAdmissionPolicy) -> Iterator[FieldError]:
    yield from _validate_policy(policy)
    if not policy.spec.mutations:
        yield required("spec.mutations", "mutations must contain at least one item")
    if policy.spec.reinvocationPolicy not in ("Never", "IfNeeded"):
        yield not_supported(
            "spec.reinvocationPolicy", policy.spec.reinvocationPolicy or "", ("IfNeeded", "Never")
        )


def _validate_binding(binding: Any) -> Iterator[FieldError]:
    spec = binding.spec
    if not spec.policyName:
        yield required("spec.policyName")
    else:
        yield from rules.dns_subdomain("spec.policyName", spec.policyName)
    reference = spec.paramRef
    if reference is not None:
        if reference.name and reference.selector is not None:
            yield forbidden("spec.paramRef.name", "name and selector are mutually exclusive")
        if not reference.name and reference.selector is None:
            yield required("spec.paramRef", "one of name or selector must be specified")
    actions = getattr(spec, "validationActions", None)
    if actions is None:
        return
    if not actions:
        yield required("spec.validationActions", "at least one validation action is required")
    for i, action in enumerate(actions):
        if action not in ("Audit", "Deny", "Warn"):
            yield not_supported(f"spec.validationActions[{i}]", action, ("Audit", "Deny", "Warn"))
    if "Deny" in actions and "Warn" in actions:
        yield invalid(
            "spec.validationActions",
            actions,
            "must not contain both Deny and Warn (repeating the same validation failure information in the API "
            "response and headers serves no purpose)",
        )


def _param_kind(policy: Any) -> str:
    kind = policy.spec.paramKind
    return f"{kind.apiVersion}/{kind.kind}" if kind is not None else UNSET


def _param_ref(binding: Any) -> str:
    reference = binding.spec.paramRef
    if reference is None:
        return UNSET
    if reference.namespace:
        return f"{reference.namespace}/{reference.name or '*'}"
    return reference.name or "*"


BINDING_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("PolicyName", lambda b: b.spec.policyName or "", "The policy it puts in force."),
    column("ParamRef", _param_ref, "The parameters it uses."),
    AGE,
)


def _webhooks(kind: type[Any]) -> Resource[Any]:
    return Resource(
        kind=kind_of(kind),
        default=_default_webhooks,
        validate_create=_validate_webhooks,
        validate_update=lambda new, _: _validate_webhooks(new),
        columns=WEBHOOK_COLUMNS,
        allow_unconditional_update=False,
    )


def _binding(kind: type[Any]) -> Resource[Any]:
    return Resource(
        kind=kind_of(kind),
        default=_default_binding,
        validate_create=_validate_binding,
        validate_update=lambda new, _: _validate_binding(new),
        columns=BINDING_COLUMNS,
        allow_unconditional_update=False,
    )


VALIDATING_POLICY: Resource[admission.ValidatingAdmissionPolicy] = Resource(
    kind=kind_of(admission.ValidatingAdmissionPolicy),
    default=_default_policy,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=_validate_validating,
    validate_update=lambda new, _: _validate_validating(new),
    columns=(
        NAME,
        column("Validations", lambda p: len(p.spec.validations or ()), "How many checks.", type="integer"),
        column("ParamKind", _param_kind, "The kind of its parameters."),
        AGE,
    ),
    subresources=(status_part(),),
    allow_unconditional_update=False,
)
MUTATING_POLICY: Resource[admission.MutatingAdmissionPolicy] = Resource(
    kind=kind_of(admission.MutatingAdmissionPolicy),
    default=_default_policy,
    validate_create=_validate_mutating,
    validate_update=lambda new, _: _validate_mutating(new),
    columns=(
        NAME,
        column("Mutations", lambda p: len(p.spec.mutations or ()), "How many changes.", type="integer"),
        column("ParamKind", _param_kind, "The kind of its parameters."),
        AGE,
    ),
    allow_unconditional_update=False,
)
RESOURCES = (
    _webhooks(admission.MutatingWebhookConfiguration),
    _webhooks(admission.ValidatingWebhookConfiguration),
    VALIDATING_POLICY,
    _binding(admission.ValidatingAdmissionPolicyBinding),
    MUTATING_POLICY,
    _binding(admission.MutatingAdmissionPolicyBinding),
)
