"""Changing the limits of a control group that is in use."""

from __future__ import annotations

import asyncio

from pinnace.runtime.cgroups import Cgroups
from pinnace.runtime.cri import Resources, RuntimeFault


async def apply(cgroups: Cgroups, path: str, resources: Resources, what: str) -> None:
    """Raises RuntimeFault where the kernel refuses, e.g. a limit below what is in use."""
    try:
        await asyncio.to_thread(cgroups.update, path, resources)
    except OSError as error:
        raise RuntimeFault(f"failed to update resources of {what}: {error}") from error
