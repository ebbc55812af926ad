"""The ImageService of the runtime's door: the store, archives and registries, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pinnace.runtime.cri import Image, ImagePullFault
from pinnace.runtime.images import archive, references
from pinnace.runtime.images.registry import Puller
from pinnace.runtime.images.store import ImageStore


class Images:
    """Images of one machine, as the kubelet and the command line see them."""

    def __init__(self, store: ImageStore, puller: Puller) -> None:
        self.store = store
        self._puller = puller
        self._pulling: dict[tuple[str, str], asyncio.Task[Image]] = {}

    async def pull(self, reference: str, *, auth: Mapping[str, str] | None = None) -> Image:
        """Fetch an image; pulls of the same reference with the same credentials share one transfer."""
        key = (str(references.parse(reference)), repr(sorted((auth or {}).items())))
        task = self._pulling.get(key)
        if task is None:
            task = self._pulling[key] = asyncio.create_task(self._pull(reference, auth))
            task.add_done_callback(lambda _: self._pulling.pop(key, None))
        return await asyncio.shield(task)

    async def _pull(self, reference: str, auth: Mapping[str, str] | None) -> Image:
        return (await self._puller.pull(references.parse(reference), auth)).view()

    async def status(self, reference: str) -> Image | None:
        """None for an image that is not there, and for what is no reference."""
        try:
            found = self.store.find(reference)
        except ImagePullFault:
            return None
        return found.view() if found is not None else None

    async def images(self) -> tuple[Image, ...]:
        return tuple(image.view() for image in self.store.index().images.values())

    async def load(self, path: str) -> tuple[Image, ...]:
        loaded = await asyncio.to_thread(archive.load, self.store, path)
        return tuple(image.view() for image in loaded)

    async def remove(self, reference: str) -> None:
        await asyncio.to_thread(self.store.remove, reference)

    async def usage(self) -> tuple[int, int]:
        return await asyncio.to_thread(self.store.usage)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._pulling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
