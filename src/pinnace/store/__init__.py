"""etcd's role: bytes under keys, one revision a commit, compare-and-swap, watch. Knows no kinds."""
