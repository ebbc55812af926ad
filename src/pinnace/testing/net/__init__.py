"""The inside of `testing.network`: pipes, transports and names of a network that exists in memory only."""
