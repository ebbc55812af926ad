"""The group apidiscovery."""
