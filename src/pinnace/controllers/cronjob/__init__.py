"""CronJob: starts jobs by the calendar."""

from pinnace.controllers.cronjob.controller import CronJobController, upcoming

__all__ = ["CronJobController", "upcoming"]
