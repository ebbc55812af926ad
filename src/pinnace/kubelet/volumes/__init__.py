"""Volumes: one file a plugin; `manager.py` mounts and unmounts what a pod asks for."""
