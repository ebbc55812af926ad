"""CustomResourceDefinitions and APIServices as objects. Serving what they declare is the server's (a later issue)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.apiextensions import v1 as apiextensions
from pinnace.api.apiregistration import v1 as apiregistration
from pinnace.api.fields import FieldError, duplicate, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Context, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

Definition = apiextensions.CustomResourceDefinition


def default(definition: Definition) -> None:
    spec = definition.spec
    names = spec.names
    if not names.singular:
        names.singular = names.kind.lower()
    if not names.listKind and names.kind:
        names.listKind = f"{names.kind}List"
    if spec.conversion is None:
        spec.conversion = apiextensions.CustomResourceConversion(strategy="None")
    webhook = spec.conversion.webhook
    client = webhook.clientConfig if webhook is not None else None
    if client is not None and client.service is not None and client.service.port is None:
        client.service.port = 443


def prepare_create(definition: Definition, _: Context) -> None:
    definition.status = apiextensions.CustomResourceDefinitionStatus(
        storedVersions=[version.name for version in definition.spec.versions if version.storage]
    )


def prepare_update(new: Definition, old: Definition, _: Context) -> None:
    new.status = old.status
    storage = [version.name for version in new.spec.versions if version.storage]
    stored = list(old.status.storedVersions or ())
    if any(name not in stored for name in storage):
        new.status = apiextensions.CustomResourceDefinitionStatus(
            acceptedNames=old.status.acceptedNames,
            conditions=old.status.conditions,
            observedGeneration=old.status.observedGeneration,
            storedVersions=[*stored, *(name for name in storage if name not in stored)],
        )


def validate(definition: Definition) -> Iterator[FieldError]:
    spec, names = definition.spec, definition.spec.names
    wanted = f"{names.plural}.{spec.group}"
    if definition.metadata.name != wanted:
        yield invalid("metadata.name", definition.metadata.name or "", 'must be spec.names.plural+"."+spec.group')
    if not spec.group:
        yield required("spec.group")
    else:
        bad = rules.dns_subdomain("spec.group", spec.group)
        yield from bad
        if not bad and "." not in spec.group:
            yield invalid("spec.group", spec.group, "should be a domain with at least one dot")
    if not spec.scope:
        yield required("spec.scope")
    elif spec.scope not in ("Cluster", "Namespaced"):
        yield not_supported("spec.scope", spec.scope, ("Cluster", "Namespaced"))
    yield from _versions(spec)
    yield from _names(names, "spec.names")
    conversion = spec.conversion
    if conversion is not None and conversion.strategy not in ("None", "Webhook"):
        yield not_supported("spec.conversion.strategy", conversion.strategy, ("None", "Webhook"))


def _versions(spec: apiextensions.CustomResourceDefinitionSpec) -> Iterator[FieldError]:
    names: set[str] = set()
    storing = 0
    for i, version in enumerate(spec.versions):
        path = f"spec.versions[{i}]"
        if version.storage:
            storing += 1
        if version.name in names:
            yield invalid("spec.versions", [v.name for v in spec.versions], "must contain unique version names")
        names.add(version.name)
        for message in rules.label_1035_messages(version.name):
            yield invalid(f"{path}.name", version.name, message)
        schema = version.schema.openAPIV3Schema if version.schema is not None else None
        if schema is None:
            yield required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        elif not schema.type:
            yield required(f"{path}.schema.openAPIV3Schema.type", "must not be empty at the root")
        elif schema.type != "object":
            yield invalid(f"{path}.schema.openAPIV3Schema.type", schema.type, "must be object at the root")
        scale = version.subresources.scale if version.subresources is not None else None
        if scale is not None:
            for word in ("specReplicasPath", "statusReplicasPath"):
                if not getattr(scale, word):
                    yield required(f"{path}.subresources.scale.{word}")
    if storing != 1:
        yield invalid(
            "spec.versions", [v.name for v in spec.versions],
            "must have exactly one version marked as storage version",
        )  # fmt: skip


def _names(names: apiextensions.CustomResourceDefinitionNames, path: str) -> Iterator[FieldError]:
    for word in ("plural", "singular"):
        value = getattr(names, word) or ""
        if not value:
            yield required(f"{path}.{word}")
        else:
            for message in rules.label_1035_messages(value):
                yield invalid(f"{path}.{word}", value, message)
    for word in ("kind", "listKind"):
        value = getattr(names, word) or ""
        if not value:
            yield required(f"{path}.{word}")
        else:
            for message in rules.label_1035_messages(value.lower()):
                yield invalid(
                    f"{path}.{word}", value,
                    f"may have mixed case, but should otherwise match: {message}",
                )  # fmt: skip
    for i, short in enumerate(names.shortNames or ()):
        for message in rules.label_1035_messages(short):
            yield invalid(f"{path}.shortNames[{i}]", short, message)
    if names.kind and names.kind == names.listKind:
        yield invalid(f"{path}.listKind", names.listKind, "kind and listKind may not be the same")


def validate_update(new: Definition, old: Definition) -> Iterator[FieldError]:
    yield from validate(new)
    for word in ("group", "scope"):
        yield from rules.immutable(f"spec.{word}", getattr(new.spec, word), getattr(old.spec, word))
    yield from rules.immutable("spec.names.plural", new.spec.names.plural, old.spec.names.plural)
    kept = {version.name for version in new.spec.versions}
    for name in new.status.storedVersions or ():
        if name not in kept:
            yield invalid(
                f"status.storedVersions[{(new.status.storedVersions or []).index(name)}]",
                name,
                "must appear in spec.versions",
            )


def validate_status(new: Definition, _: Definition) -> Iterator[FieldError]:
    stored = new.status.storedVersions or []
    if not stored:
        yield invalid("status.storedVersions", stored, "must have at least one stored version")
    for i, name in enumerate(stored):
        if name in stored[:i]:
            yield duplicate(f"status.storedVersions[{i}]", name)


def default_service(service: apiregistration.APIService) -> None:
    if service.spec.service is not None and service.spec.service.port is None:
        service.spec.service.port = 443


def validate_service(service: apiregistration.APIService) -> Iterator[FieldError]:
    spec = service.spec
    wanted = f"{spec.version or ''}.{spec.group or ''}"
    if service.metadata.name != wanted:
        yield invalid(
            "metadata.name", service.metadata.name or "", f"must be `spec.version+\".\"+spec.group`: \"{wanted}\""
        )
    if spec.version == "v1" and not spec.group:
        return
    if not spec.group:
        yield required("spec.group", "only v1 may have an empty group and it better be legacy kube")
    if not spec.version:
        yield required("spec.version")
    if not 1 <= spec.groupPriorityMinimum <= 20000:
        yield invalid("spec.groupPriorityMinimum", spec.groupPriorityMinimum, "must be positive and less than 20000")
    if not 1 <= spec.versionPriority <= 1000:
        yield invalid("spec.versionPriority", spec.versionPriority, "must be positive and less than 1000")
    if spec.service is None:
        if spec.caBundle:
            yield invalid("spec.caBundle", f"{len(spec.caBundle)} bytes", "local APIServices may not have a caBundle")
        if spec.insecureSkipTLSVerify:
            yield invalid(
                "spec.insecureSkipTLSVerify", True, "local APIServices may not have insecureSkipTLSVerify"
            )
        return
    if not spec.service.namespace:
        yield required("spec.service.namespace")
    if not spec.service.name:
        yield required("spec.service.name")
    port = spec.service.port
    if port is not None and not 1 <= port <= 65535:
        yield invalid("spec.service.port", port, "port is not valid: must be between 1 and 65535, inclusive")
    if spec.insecureSkipTLSVerify and spec.caBundle:
        yield invalid("spec.insecureSkipTLSVerify", True, "may not be true if caBundle is present")


def _available(service: apiregistration.APIService) -> str:
    for condition in service.status.conditions or ():
        if condition.type == "Available":
            if condition.status == "True":
                return "True"
            return f"{condition.status} ({condition.reason})" if condition.reason else condition.status
    return "Unknown"


def _target(service: apiregistration.APIService) -> str:
    reference = service.spec.service
    return f"{reference.namespace}/{reference.name}" if reference is not None else "Local"


DEFINITION: Resource[Definition] = Resource(
    kind=kind_of(apiextensions.CustomResourceDefinition),
    default=default,
    prepare_create=prepare_create,
    prepare_update=prepare_update,
    validate_create=validate,
    validate_update=validate_update,
    columns=(NAME, column("Created At", lambda d: d.metadata.creationTimestamp or "", "When it was made.")),
    subresources=(status_part(validate_status),),
    allow_unconditional_update=False,
)
SERVICE_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Service", _target, "Who answers."),
    column("Available", _available, "Whether it does."),
    AGE,
)
API_SERVICE: Resource[apiregistration.APIService] = Resource(
    kind=kind_of(apiregistration.APIService),
    default=default_service,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_service,
    validate_update=lambda new, _: validate_service(new),
    columns=SERVICE_COLUMNS,
    subresources=(status_part(),),
    generation=False,
    allow_unconditional_update=False,
)
RESOURCES = (DEFINITION, API_SERVICE)
