"""Puts the parts together into processes: certificates, bootstrap objects, the server and the node process."""
