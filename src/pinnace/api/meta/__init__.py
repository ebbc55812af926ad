"""The group meta."""
