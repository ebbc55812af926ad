"""CronJob: starts jobs by the calendar."""

from pinnace.controllers.cronjob.controller import CronJobController

__all__ = ["CronJobController"]
