"""The vocabulary: wire types per group and version, quantities, selectors, patches, errors.

Wire types are msgspec Structs, one module a group and version: `from pinnace.api.core import v1 as core`.

- Attributes carry the wire's names. Where Python cannot take one, an underscore follows: `continue_`, `from_`,
  `except_`, `not_`, `bool_`; the wire keeps its own.
- What Go may leave out is `X | None = None`. What Go always prints (required fields, structs held by value:
  `metadata`, `spec`, `status` of a kind, `container.resources`) is never None, has Go's zero value as default,
  and is always encoded (an empty required list as `[]`).
- `kind` and `apiVersion` of a top-level kind are filled in by themselves and come first in its JSON.
- Time and MicroTime are `str` (`api.times`), IntOrString is `int | str`, Quantity is `str | int | float`
  (`api.quantity`), bytes are base64 `str`, raw objects are dicts.
- Objects may be changed by whoever made or decoded them; what a cache hands out may not: `codec.copy` first.

`kinds` lists what is served; `codec` turns JSON into objects and back; `merge_table` holds what patches and
server-side tables must know of each field. `tools/generate_api.py` writes all generated files.
"""
