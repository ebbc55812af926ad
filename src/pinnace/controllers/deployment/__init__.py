"""Deployment: rolls replica sets, one for each revision of a pod template."""

from pinnace.controllers.deployment.controller import DeploymentController

__all__ = ["DeploymentController"]
