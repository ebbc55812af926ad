"""May you? The RBAC and node authorizers, and the roles that every cluster starts with."""
