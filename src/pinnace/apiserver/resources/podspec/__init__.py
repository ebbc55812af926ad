"""What pods and every pod template share: defaults, validation, warnings."""
