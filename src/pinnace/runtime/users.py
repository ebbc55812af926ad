"""Who a container's process runs as: names are looked up in the image's own /etc/passwd and /etc/group.

Pure: the two files come in as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pinnace.runtime.cri import RuntimeFault, SecurityContext


class PasswdEntry(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProcessUser:
    uid: int
    gid: int
    additional: tuple[int, ...]


def parse_passwd(text: str) -> list[PasswdEntry]:
    entries = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            entries.append(
                PasswdEntry(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "")
            )
    return entries


def parse_group(text: str) -> list[GroupEntry]:
    entries = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 3 and fields[2].isdigit():
            members = tuple(name for name in (fields[3].split(",") if len(fields) > 3 else ()) if name)
            entries.append(GroupEntry(fields[0], int(fields[2]), members))
    return entries


def resolve_user(security: SecurityContext, image_user: str, passwd: str, group: str) -> ProcessUser:
    """The process's ids. The pod's wishes win over the image's `USER`; names must be in the image's files.

    Raises RuntimeFault for a name that the image does not know.
    """
    users, groups = parse_passwd(passwd), parse_group(group)
    if security.run_as_username:
        who, _, image_group = security.run_as_username, "", ""
    elif security.run_as_user is not None:
        who, image_group = str(security.run_as_user), ""
    else:
        who, _, image_group = (image_user or "0").partition(":")
    entry = _find_user(who, users)
    uid, gid = (entry.uid, entry.gid) if entry is not None else (int(who), 0)
    if image_group:
        gid = _find_group(image_group, groups)
    if security.run_as_group is not None:
        gid = security.run_as_group
    additional = [gid]
    if entry is not None:
        additional += [found.gid for found in groups if entry.name in found.members]
    additional += security.supplemental_groups
    if security.fs_group is not None:
        additional.append(security.fs_group)
    return ProcessUser(uid, gid, tuple(dict.fromkeys(additional)))


def _find_user(who: str, users: list[PasswdEntry]) -> PasswdEntry | None:
    for entry in users:
        if entry.name == who:
            return entry
    if not who.isdigit():
        raise RuntimeFault(f"unable to find user {who}: no matching entries in passwd file")
    return next((entry for entry in users if entry.uid == int(who)), None)


def _find_group(who: str, groups: list[GroupEntry]) -> int:
    for entry in groups:
        if entry.name == who:
            return entry.gid
    if not who.isdigit():
        raise RuntimeFault(f"unable to find group {who}: no matching entries in group file")
    return int(who)
