"""Pod network, service proxy, DNS, network policy, ingress. `pods` and `proxy` are the kubelet's doors."""
