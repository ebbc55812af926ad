"""Which node a pod goes to: queue, node cache, scheduling cycle. `plugins` says what fits, and what fits best."""
