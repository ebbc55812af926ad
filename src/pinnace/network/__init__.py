"""The cluster's network: fabric and pods (links, addresses, routes), the service proxy, and DNS."""
