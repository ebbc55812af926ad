"""The default roles and bindings, as tables; `roles` makes objects of them.

A line of a role reads `verbs: resources` or `verbs: resources = names`. A resource is written `plural.group` with
`/subresource` behind it, the core group without its dot; what begins with `/` is a path. `*.*` is every
resource of every group.
"""
