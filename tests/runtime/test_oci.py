"""The OCI configuration, by input and output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pinnace.runtime import oci
from pinnace.runtime.cri import ContainerSpec, Device, Mount, Resources, RuntimeFault, SecurityContext
from pinnace.runtime.seccomp import runtime_default
from pinnace.runtime.users import ProcessUser

ALL = (1 << 41) - 1
HOST = oci.HostView(cgroup_v2=False, architecture="amd64", capabilities=ALL)
SANDBOX = oci.SandboxView(
    hostname="web-0", namespaces={"network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts"}, shm="/s/shm",
    resolv_conf="/s/resolv.conf", hostname_file="/s/hostname",
)  # fmt: skip
IMAGE = oci.ImageConfig(entrypoint=("/entry",), cmd=("serve",), env=("A=image", "B=image"), working_dir="/srv")
SPEC = ContainerSpec(name="web", image="x")
ROOT = ProcessUser(0, 0, (0,))


def make(spec: ContainerSpec = SPEC, sandbox: oci.SandboxView = SANDBOX, host: oci.HostView = HOST) -> dict[str, Any]:
    return oci.config(spec, IMAGE, sandbox, ROOT, host, rootfs="/r", cgroup="/pinnace/pod/c")


@pytest.mark.parametrize(("command", "args", "expected"), [
    ((), (), ["/entry", "serve"]),
    (("/bin/x",), (), ["/bin/x"]),
    ((), ("a", "b"), ["/entry", "a", "b"]),
    (("/bin/x",), ("a",), ["/bin/x", "a"]),
])  # fmt: skip
def test_command_and_args(command: tuple[str, ...], args: tuple[str, ...], expected: list[str]) -> None:
    assert oci.process_args(replace(SPEC, command=command, args=args), IMAGE) == expected


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(RuntimeFault, match="no command specified"):
        oci.process_args(SPEC, oci.ImageConfig())


def test_environment_the_pods_wins_over_the_images() -> None:
    spec = replace(SPEC, env=(("B", "pod"), ("C", "a=b"), ("PATH", "/x")), tty=True)
    assert oci.process_env(spec, IMAGE, "web-0") == [
        "PATH=/x", "TERM=xterm", "HOSTNAME=web-0", "A=image", "B=pod", "C=a=b",
    ]  # fmt: skip


@pytest.mark.parametrize(("security", "has", "has_not"), [
    (SecurityContext(), "CAP_NET_RAW", "CAP_SYS_ADMIN"),
    (SecurityContext(add_capabilities=("SYS_ADMIN",)), "CAP_SYS_ADMIN", "CAP_SYS_BOOT"),
    (SecurityContext(add_capabilities=("cap_sys_time",)), "CAP_SYS_TIME", "CAP_SYS_ADMIN"),
    (SecurityContext(drop_capabilities=("NET_RAW",)), "CAP_CHOWN", "CAP_NET_RAW"),
    (SecurityContext(drop_capabilities=("ALL",), add_capabilities=("CHOWN",)), "CAP_CHOWN", "CAP_NET_RAW"),
    (SecurityContext(add_capabilities=("ALL",), drop_capabilities=("SYS_BOOT",)), "CAP_SYS_ADMIN", "CAP_SYS_BOOT"),
    (SecurityContext(privileged=True), "CAP_SYS_BOOT", "CAP_SYS_RESOURCE"),
])  # fmt: skip
def test_capabilities(security: SecurityContext, has: str, has_not: str) -> None:
    chosen = oci.capability_set(security, ALL & ~(1 << 24))  # we ourselves lack CAP_SYS_RESOURCE
    assert has in chosen
    assert has_not not in chosen


def test_dropping_all_leaves_none() -> None:
    assert oci.capability_set(SecurityContext(drop_capabilities=("ALL",)), ALL) == []


@pytest.mark.parametrize(("sandbox", "v2", "kinds"), [
    (SANDBOX, False, {"mount": None, "network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts", "pid": None}),
    (replace(SANDBOX, pid_namespace="/p"), True,
     {"mount": None, "network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts", "pid": "/p", "cgroup": None}),
    (replace(SANDBOX, pid_namespace=None, namespaces={"uts": "/ns/uts"}), False, {"mount": None, "uts": "/ns/uts"}),
])  # fmt: skip
def test_namespaces(sandbox: oci.SandboxView, v2: bool, kinds: dict[str, str | None]) -> None:
    found = oci.namespaces(sandbox, replace(HOST, cgroup_v2=v2))
    assert {entry["type"]: entry.get("path") for entry in found} == kinds


def test_mounts_volumes_replace_defaults_and_parents_come_first() -> None:
    spec = replace(SPEC, mounts=(
        Mount("/data/deep/er", "/h/3"), Mount("/data", "/h/1", readonly=True),
        Mount("/etc/hosts", "/h/hosts"), Mount("/dev/shm/", "/h/shm", propagation="hostToContainer"),
        Mount("/rro", "/h/r", readonly=True, recursive_readonly=True, propagation="bidirectional"),
    ))  # fmt: skip
    mounts = make(spec)["mounts"]
    by_target = {mount["destination"]: mount for mount in mounts}
    assert by_target["/dev/shm"]["source"] == "/h/shm"
    assert by_target["/dev/shm"]["options"] == ["rbind", "rslave", "rw"]
    assert by_target["/data"]["options"] == ["rbind", "rprivate", "ro"]
    assert by_target["/rro"]["options"] == ["rbind", "rshared", "rro"]
    assert by_target["/sys"]["options"][-1] == "ro"
    order = [mount["destination"] for mount in mounts]
    assert order.index("/proc") < order.index("/data") < order.index("/data/deep/er")
    assert len(order) == len(set(order))
    assert make(spec)["linux"]["rootfsPropagation"] == "rshared"


def test_unknown_propagation_is_refused() -> None:
    with pytest.raises(RuntimeFault, match="propagation"):
        oci.volume_mounts([Mount("/a", "/b", propagation="odd")])


def test_privileged_has_no_masks_and_all_devices() -> None:
    linux = make(replace(SPEC, security=SecurityContext(privileged=True, seccomp="RuntimeDefault")))["linux"]
    assert "maskedPaths" not in linux
    assert "seccomp" not in linux
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_devices_are_allowed_one_by_one() -> None:
    spec = replace(SPEC, devices=(Device("/dev/fuse", "/dev/fuse", "rw"),))
    entry = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}
    linux = oci.config(spec, IMAGE, SANDBOX, ROOT, HOST, rootfs="/r", cgroup="/c", devices=[entry])["linux"]
    assert linux["devices"] == [entry]
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ]


@pytest.mark.parametrize(("resources", "v2", "expected"), [
    (Resources(), False, {}),
    (Resources(cpu_shares=102, cpu_quota=50000, cpu_period=100000), False,
     {"cpu": {"shares": 102, "quota": 50000, "period": 100000}}),
    (Resources(cpu_quota=-1, memory_limit=1 << 20), False, {"cpu": {"quota": -1}, "memory": {"limit": 1 << 20}}),
    (Resources(memory_limit=1 << 20, pids_limit=5), True,
     {"memory": {"limit": 1 << 20, "swap": 1 << 20}, "unified": {"memory.oom.group": "1"}, "pids": {"limit": 5}}),
    (Resources(pids_limit=0), False, {"pids": {"limit": -1}}),
])  # fmt: skip
def test_resources(resources: Resources, v2: bool, expected: dict[str, Any]) -> None:
    assert oci.linux_resources(resources, v2=v2) == expected


@pytest.mark.parametrize(("wanted", "lowest", "set_to"), [
    (None, 0, None), (-997, None, -997), (-997, 0, 0), (-997, 200, 200), (1000, 0, 1000),
])  # fmt: skip
def test_oom_score_is_clamped_where_the_kernel_would_refuse(
    wanted: int | None, lowest: int | None, set_to: int | None
) -> None:
    assert oci.oom_score_adj(wanted, replace(HOST, oom_score_adj=lowest)) == set_to


def test_the_rest_of_the_process() -> None:
    config = make(replace(SPEC, security=SecurityContext(allow_privilege_escalation=False, readonly_rootfs=True)))
    assert config["process"]["cwd"] == "/srv"
    assert config["process"]["noNewPrivileges"] is True
    assert config["root"] == {"path": "/r", "readonly": True}
    assert config["linux"]["cgroupsPath"] == "/pinnace/pod/c"
    assert "/proc/kcore" in config["linux"]["maskedPaths"]
    assert "hostname" not in config  # the namespace has it already; runc refuses to set it in a shared one


def _refused(profile: dict[str, Any]) -> set[str]:
    return {name for rule in profile["syscalls"] if "args" not in rule for name in rule["names"]}


def test_seccomp_follows_the_capabilities() -> None:
    plain = runtime_default(oci.DEFAULT_CAPABILITIES, "amd64")
    assert {"mount", "bpf", "keyctl", "clone3", "reboot", "init_module"} <= _refused(plain)
    assert "chroot" not in _refused(plain)
    admin = runtime_default([*oci.DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN"], "amd64")
    assert {"mount", "clone3", "bpf", "unshare"}.isdisjoint(_refused(admin))
    assert "keyctl" in _refused(admin)
    assert make(replace(SPEC, security=SecurityContext(seccomp="RuntimeDefault")))["linux"]["seccomp"] == plain
    assert "seccomp" not in make()["linux"]
