"""Garbage collection: what has no owner left goes; what is deleted takes its dependents along, or orphans them."""

from pinnace.controllers.garbagecollector.collector import GarbageCollector

__all__ = ["GarbageCollector"]
