"""The container runtime: `cri.py` is its door, `engine.py` the built-in runtime behind it.

One container's way through it: `engine` → `images/store` (layers) → `containers` (root file system and bundle, with
`oci`, `users`, `seccomp`) → `conmon` (which starts runc) → `events` (how it ended). `sandboxes` makes a pod's
namespaces, `cgroups` its limits, `execs` and `streams` what runs beside it, `adoption` finds it all again.
"""
