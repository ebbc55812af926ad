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

Reading and writing
- `codec.decode(kind, bytes)` and `codec.from_dict(kind, dict)` take what users send: null means not set, an empty list
  or map where Go has `omitempty` becomes None, quantities become canonical. `codec.decode_list` and `decode_event`
  take what a server sent, and only decode. `encode`, `to_dict`, `copy`. Errors are BadRequest in Go's words.
- `strict.unknown_fields(kind, dict)`, `strict.duplicate_fields(bytes)`: findings for `fieldValidation`.
- `yaml.load`, `load_all`, `dump`, `dump_all`: scalars as kubectl's; ValueError for what is malformed or a bomb.
- `patch.json_patch.apply(doc, operations)`, `patch.merge_patch.apply(doc, patch)`, `patch.strategic.apply(doc, patch,
  core.Pod)`: pure, on dicts; PatchError (TestFailed for a `test` that does not hold).

Words (ValueError in upstream's words)
- `quantity.parse_quantity(text)`: compare, add, subtract, `.value`, `.milli`; `quantity.canonical(text)`.
- `times.parse`, `format`, `format_micro`, `parse_duration`, `format_duration`; `intstr.scaled(v, total, round_up=…)`.
- `labels.parse_selector(text)`, `selector_of(LabelSelector | None)`, `from_map(dict)` → `Selector.matches(labels)`;
  `fieldselectors.parse_field_selector(text)` → `.matches(fields)`, `.exact(field)`.
- `names.dns_label(value)`, … → list of problems, empty when fine. `paths.parse(jsonpath).render(doc)`.

`kinds` lists what is served; `merge_table` holds what patches must know of each field; `shapes` the fields of a type
for walks. `tools/generate_api.py` writes all generated files.
"""
