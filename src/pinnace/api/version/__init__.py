"""The group version."""
