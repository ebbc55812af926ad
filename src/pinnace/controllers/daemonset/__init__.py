"""DaemonSet: one pod on each node that it fits."""

from pinnace.controllers.daemonset.controller import DaemonSetController

__all__ = ["DaemonSetController"]
