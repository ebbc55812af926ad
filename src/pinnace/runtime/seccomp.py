"""The RuntimeDefault seccomp profile, as OCI data.

It is a list of what is refused, not of what is allowed: shorter to check, faster for runc to compile at each
start, and it does not break programs that use calls newer than the list. What it refuses is what the well-known
default profiles refuse: administration of the kernel, of mounts, namespaces, time and keys, unless a capability
of the container stands for it. It needs runc with libseccomp; runc itself refuses to start without.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

EPERM, ENOSYS = 1, 38
NAMESPACE_FLAGS = 0x7E020000             # every CLONE_NEW… but the time namespace, which clone cannot ask for
AF_ALG, AF_VSOCK = 38, 40

# Refused unless the container has (one of) the capabilities.
GUARDED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("CAP_SYS_ADMIN",), (
        "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount", "mount_setattr", "move_mount",
        "open_tree", "pivot_root", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns",
        "swapoff", "swapon", "umount", "umount2", "unshare",
    )),
    (("CAP_SYS_ADMIN", "CAP_BPF"), ("bpf",)),
    (("CAP_SYS_ADMIN", "CAP_PERFMON"), ("perf_event_open", "fanotify_init")),
    (("CAP_DAC_READ_SEARCH",), ("open_by_handle_at",)),
    (("CAP_SYS_BOOT",), ("kexec_file_load", "kexec_load", "reboot")),
    (("CAP_SYS_CHROOT",), ("chroot",)),
    (("CAP_SYS_MODULE",), ("create_module", "delete_module", "finit_module", "init_module", "query_module")),
    (("CAP_SYS_PACCT",), ("acct",)),
    (("CAP_SYS_PTRACE",), ("kcmp", "pidfd_getfd", "process_madvise")),
    (("CAP_SYS_RAWIO",), ("ioperm", "iopl")),
    (("CAP_SYS_TIME",), ("clock_settime", "clock_settime64", "settimeofday", "stime")),
    (("CAP_SYS_TTY_CONFIG",), ("vhangup",)),
    (("CAP_SYS_NICE",), ("mbind", "move_pages", "migrate_pages", "set_mempolicy", "set_mempolicy_home_node")),
    (("CAP_SYSLOG",), ("syslog",)),
)  # fmt: skip
# Refused to everyone: kernel keys are not namespaced; the others are old, or wide open to attacks.
ALWAYS: tuple[str, ...] = (
    "_sysctl", "add_key", "get_kernel_syms", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl",
    "nfsservctl", "request_key", "sysfs", "uselib", "userfaultfd", "ustat", "vm86", "vm86old",
)  # fmt: skip


def _refuse(names: list[str], errno: int = EPERM, args: list[dict[str, int | str]] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    if args:
        rule["args"] = args
    return rule


def runtime_default(capabilities: Collection[str], architecture: str) -> dict[str, Any]:
    """The profile for a container that has these capabilities. `architecture` is Go's name, e.g. amd64."""
    names = [
        name for needed, calls in GUARDED if not any(cap in capabilities for cap in needed) for name in calls
    ]
    rules = [_refuse([*names, *ALWAYS])]
    if "CAP_SYS_ADMIN" not in capabilities:
        # clone3 hides its flags from seccomp; ENOSYS makes libraries fall back to clone, which can be looked at.
        rules.append(_refuse(["clone3"], ENOSYS))
        flags: list[dict[str, int | str]] = []
        for bit in range(32):
            if NAMESPACE_FLAGS & 1 << bit:
                mask = 1 << bit
                flags = [{"index": 0, "value": mask, "valueTwo": mask, "op": "SCMP_CMP_MASKED_EQ"}]
                rules.append(_refuse(["clone"], args=flags))
    rules += [
        _refuse(["socket"], args=[{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}])
        for family in (AF_ALG, AF_VSOCK)
    ]
    architectures = {
        "amd64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "arm64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    }
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    if architecture in architectures:
        profile["architectures"] = architectures[architecture]
    return profile
