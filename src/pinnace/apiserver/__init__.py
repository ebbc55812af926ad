"""The front door: HTTP, authentication, authorization, admission, one loop over a table of resources, watch cache."""
