"""The three ways to patch an object, each a pure function on plain JSON values: nothing given is changed.

- `json_patch.apply(document, operations)`: RFC 6902, `application/json-patch+json`
- `merge_patch.apply(document, patch)`: RFC 7386, `application/merge-patch+json`
- `strategic.apply(document, patch, of)`: Kubernetes' own, `application/strategic-merge-patch+json`

What cannot be applied raises `PatchError` with upstream's words; the server makes the Status of it.
"""

from __future__ import annotations


class PatchError(ValueError):
    """The patch is malformed, or does not fit the document."""


class TestFailed(PatchError):
    """A `test` operation of a JSON patch did not hold."""

    __test__ = False  # no test class, whatever pytest takes from the name
