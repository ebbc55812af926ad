"""StatefulSet: pods with names, volumes and an order of their own."""

from pinnace.controllers.statefulset.controller import StatefulSetController

__all__ = ["StatefulSetController"]
