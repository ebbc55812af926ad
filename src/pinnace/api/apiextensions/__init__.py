"""The group apiextensions."""
