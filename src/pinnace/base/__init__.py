"""What every part stands on: clock, randomness, backoff, work queue, supervisor. No Kubernetes in here."""
