"""Nodes that do not exist: they register, renew their leases, and lead pods through lives that are data.

`life.py` says what a life is, `course.py` what one container does, `pods.py` is the pure machine that brings a pod on,
`nodes.py` performs what it says, `heartbeats.py` keeps the nodes themselves alive, `identities.py` renews their
certificates, `logs.py` answers for their containers, `stages.py` reads kwok's Stages. What upstream's ecosystem knows
as kwok.
"""

from pinnace.kubelet.simulated.heartbeats import LEASES
from pinnace.kubelet.simulated.life import EXIT_CODE, PREFIX, RUN_SECONDS, Life, Lives
from pinnace.kubelet.simulated.logs import SimulatedKubelets
from pinnace.kubelet.simulated.machines import SimulatedNode
from pinnace.kubelet.simulated.nodes import SimulatedNodes

__all__ = [
    "EXIT_CODE", "LEASES", "PREFIX", "RUN_SECONDS", "Life", "Lives", "SimulatedKubelets", "SimulatedNode",
    "SimulatedNodes",
]  # fmt: skip
