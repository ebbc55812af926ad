"""Shipped to users: clusters for tests, on simulated time, from a seed."""
