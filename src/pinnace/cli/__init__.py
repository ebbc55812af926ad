"""The command line: one file a verb. Imports only what its verb needs."""
