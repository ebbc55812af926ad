"""Images: references, the store on disk, unpacking layers, archives, registries, and a builder without tools."""
