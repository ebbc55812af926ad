"""Users and groups of container processes."""

from __future__ import annotations

import pytest

from pinnace.runtime.cri import RuntimeFault, SecurityContext
from pinnace.runtime.users import ProcessUser, resolve_user

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/var/www:\n# comment\nbroken\nbob:x:1000:1000::/home/bob\n"
GROUP = "root:x:0:\nweb:x:34:\nstaff:x:50:bob,web\nlog:x:4:web\nbroken:x\n"


@pytest.mark.parametrize(("security", "image_user", "expected"), [
    (SecurityContext(), "", ProcessUser(0, 0, (0,))),
    (SecurityContext(), "web", ProcessUser(33, 34, (34, 50, 4))),
    (SecurityContext(), "33", ProcessUser(33, 34, (34, 50, 4))),
    (SecurityContext(), "web:staff", ProcessUser(33, 50, (50, 4))),
    (SecurityContext(), "7:8", ProcessUser(7, 8, (8,))),
    (SecurityContext(), "4242", ProcessUser(4242, 0, (0,))),
    (SecurityContext(run_as_user=1000), "web:staff", ProcessUser(1000, 1000, (1000, 50))),
    (SecurityContext(run_as_user=5, run_as_group=6), "web", ProcessUser(5, 6, (6,))),
    (SecurityContext(run_as_username="bob"), "web", ProcessUser(1000, 1000, (1000, 50))),
    (SecurityContext(run_as_group=9, supplemental_groups=(50, 60), fs_group=70), "web",
     ProcessUser(33, 9, (9, 50, 4, 60, 70))),
])  # fmt: skip
def test_who_the_process_runs_as(security: SecurityContext, image_user: str, expected: ProcessUser) -> None:
    assert resolve_user(security, image_user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(("image_user", "message"), [
    ("eve", "unable to find user eve: no matching entries in passwd file"),
    ("web:wheel", "unable to find group wheel: no matching entries in group file"),
])  # fmt: skip
def test_unknown_names_are_refused(image_user: str, message: str) -> None:
    with pytest.raises(RuntimeFault, match=message):
        resolve_user(SecurityContext(), image_user, PASSWD, GROUP)
