"""Job: run pods until so many have succeeded."""

from pinnace.controllers.job.controller import JobController

__all__ = ["JobController"]
