"""Validation of security contexts, of the pod and of its containers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required, too_long
from pinnace.apiserver.resources import rules

_SYSCTL_TEXT = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
_SYSCTL = re.compile(_SYSCTL_TEXT)
_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_NET = ("net.",)
_IPC = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def validate_pod_security(
    context: core.PodSecurityContext, spec: core.PodSpec, path: str
) -> Iterator[FieldError]:
    if context.fsGroup is not None:
        yield from rules.numeric_id(f"{path}.fsGroup", context.fsGroup)
    if context.runAsUser is not None:
        yield from rules.numeric_id(f"{path}.runAsUser", context.runAsUser)
    if context.runAsGroup is not None:
        yield from rules.numeric_id(f"{path}.runAsGroup", context.runAsGroup)
    for i, group in enumerate(context.supplementalGroups or ()):
        yield from rules.numeric_id(f"{path}.supplementalGroups[{i}]", group)
    if spec.shareProcessNamespace and spec.hostPID:
        yield invalid(
            f"{path}.shareProcessNamespace", True, "ShareProcessNamespace and HostPID cannot both be enabled"
        )
    if context.sysctls:
        yield from _sysctls(context.sysctls, spec, f"{path}.sysctls")
    if context.fsGroupChangePolicy not in (None, "Always", "OnRootMismatch"):
        yield not_supported(f"{path}.fsGroupChangePolicy", context.fsGroupChangePolicy, ("Always", "OnRootMismatch"))
    if context.seccompProfile is not None:
        yield from _seccomp(context.seccompProfile, f"{path}.seccompProfile")
    if context.appArmorProfile is not None:
        yield from _app_armor(context.appArmorProfile, f"{path}.appArmorProfile")
    if context.supplementalGroupsPolicy not in (None, "Merge", "Strict"):
        yield not_supported(f"{path}.supplementalGroupsPolicy", context.supplementalGroupsPolicy, ("Merge", "Strict"))
    if context.seLinuxChangePolicy not in (None, "MountOption", "Recursive"):
        yield not_supported(f"{path}.seLinuxChangePolicy", context.seLinuxChangePolicy, ("MountOption", "Recursive"))


def _sysctls(sysctls: list[core.Sysctl], spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    names: set[str] = set()
    for i, sysctl in enumerate(sysctls):
        here = f"{path}[{i}].name"
        if not sysctl.name:
            yield required(here)
        elif len(sysctl.name) > 253 or not _SYSCTL.match(sysctl.name):
            yield invalid(here, sysctl.name, f"must have at most 253 characters and match regex {_SYSCTL_TEXT}")
        elif sysctl.name in names:
            yield duplicate(here, sysctl.name)
        dotted = (sysctl.name or "").replace("/", ".")
        if spec.hostNetwork and dotted.startswith(_NET):
            yield invalid(here, sysctl.name, "may not be specified when 'hostNetwork' is true")
        elif spec.hostIPC and dotted.startswith(_IPC):
            yield invalid(here, sysctl.name, "may not be specified when 'hostIPC' is true")
        names.add(sysctl.name)


def validate_security_context(
    context: core.SecurityContext, path: str, host_users: bool
) -> Iterator[FieldError]:
    if context.runAsUser is not None:
        yield from rules.numeric_id(f"{path}.runAsUser", context.runAsUser)
    if context.runAsGroup is not None:
        yield from rules.numeric_id(f"{path}.runAsGroup", context.runAsGroup)
    if context.procMount is not None:
        if context.procMount not in ("Default", "Unmasked"):
            yield not_supported(f"{path}.procMount", context.procMount, ("Default", "Unmasked"))
        elif context.procMount == "Unmasked" and host_users:
            yield invalid(f"{path}.procMount", context.procMount, "`hostUsers` must be false to use `Unmasked`")
    if context.seccompProfile is not None:
        yield from _seccomp(context.seccompProfile, f"{path}.seccompProfile")
    if context.allowPrivilegeEscalation is False:
        if context.privileged:
            yield invalid(
                path,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            )
        added = context.capabilities.add or () if context.capabilities is not None else ()
        if "CAP_SYS_ADMIN" in added:
            yield invalid(
                path,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            )
    if context.appArmorProfile is not None:
        yield from _app_armor(context.appArmorProfile, f"{path}.appArmorProfile")


def _seccomp(profile: core.SeccompProfile, path: str) -> Iterator[FieldError]:
    if not profile.type:
        yield required(f"{path}.type", "type is required when seccompProfile is set")
    elif profile.type not in _PROFILES:
        yield not_supported(f"{path}.type", profile.type, _PROFILES)
    if profile.type == "Localhost":
        if profile.localhostProfile is None:
            yield required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost")
        else:
            yield from rules.local_descending_path(f"{path}.localhostProfile", profile.localhostProfile)
    elif profile.localhostProfile is not None:
        yield invalid(f"{path}.localhostProfile", profile, "can only be set when seccomp type is Localhost")


def _app_armor(profile: core.AppArmorProfile, path: str) -> Iterator[FieldError]:
    local = profile.localhostProfile
    if profile.type == "Localhost":
        if not (local or "").strip():
            yield required(f"{path}.localhostProfile", "must be set when AppArmor type is Localhost")
        elif local is not None and local != local.strip():
            yield invalid(f"{path}.localhostProfile", local, "must not be padded with whitespace")
        if local is not None and len(local) > 4095:
            yield too_long(f"{path}.localhostProfile", "", 4095)
    elif profile.type in ("RuntimeDefault", "Unconfined"):
        if local is not None:
            yield invalid(f"{path}.localhostProfile", local, "can only be set when AppArmor type is Localhost")
    elif not profile.type:
        yield required(f"{path}.type", "type is required when appArmorProfile is set")
    else:
        yield not_supported(f"{path}.type", profile.type, _PROFILES)


def validate_host_users(spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    """A pod with a user namespace of its own may not share other namespaces with the host."""
    if spec.hostUsers is not False:
        return
    why = "when `hostUsers` is false"
    if spec.hostNetwork:
        yield forbidden(f"{path}.hostNetwork", why)
    if spec.hostPID:
        yield forbidden(f"{path}.hostPID", why)
    if spec.hostIPC:
        yield forbidden(f"{path}.hostIPC", why)
