"""Image references."""

from __future__ import annotations

import pytest

from pinnace.runtime.cri import ImagePullFault
from pinnace.runtime.images.references import parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(("text", "full"), [
    ("busybox", "docker.io/library/busybox:latest"),
    ("busybox:1.36", "docker.io/library/busybox:1.36"),
    ("library/busybox", "docker.io/library/busybox:latest"),
    ("bitnami/redis:7", "docker.io/bitnami/redis:7"),
    ("docker.io/busybox", "docker.io/library/busybox:latest"),
    ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
    ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
    ("localhost/x", "localhost/x:latest"),
    ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1"),
    ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
    ("[::1]:5000/x:y", "[::1]:5000/x:y"),
    (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
    (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
    ("a__b/c-d.e:T_1.x-y", "docker.io/a__b/c-d.e:T_1.x-y"),
])  # fmt: skip
def test_short_forms_are_completed(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize("text", [
    "", ":", "UPPER", "a/UPPER", "a:", "a:b:c", "a//b", "/a", "a/", "a@sha256:short", "a b", "a:" + "t" * 129,
    "x@", "-a", "a..b", "x/" + "y" * 255, "http://a/b", "a:ä",
])  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ImagePullFault, match=r"couldn't parse image name.*invalid reference format") as caught:
        parse(text)
    assert caught.value.reason == "InvalidImageName"
