"""How fast and how small Pinnace is on this machine, next to its budget and to upstream Kubernetes 1.36.

`python -m bench` runs every row and writes bench/latest.json; `python -m bench get list` runs some of them.
"""
