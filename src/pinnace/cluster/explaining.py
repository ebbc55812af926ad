"""What the loops know and the API server tells, when it is asked why: they may not import each other."""

from __future__ import annotations

from pinnace.apiserver.server import ApiServer
from pinnace.controllers.cronjob import upcoming
from pinnace.scheduler.scheduler import Scheduler


def explain(server: ApiServer, scheduler: Scheduler) -> None:
    """From now on the server can tell what each node has against a pod, and when a cron job comes next."""
    server.causes.refusals = scheduler.refusals
    server.causes.upcoming = upcoming
