"""The group admission."""
