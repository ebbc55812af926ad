"""Pinnace: Kubernetes, whole, in Python."""
