"""Pods: the kind itself, what may change about it, how it is shown, and the paths below it."""
