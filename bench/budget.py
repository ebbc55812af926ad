"""The budget that the project has set itself, and upstream's figures: Kubernetes 1.36 (kube-apiserver with etcd 3.5,
containerd), measured on a machine with two cores."""

from __future__ import annotations

from bench.figures import Target

COLD_START = Target(1.0, 3.7, "3.7-5.5 s, no DNS")
MEMORY = Target(150.0, 757.0)
IDLE_CPU = Target(0.5, 6.4)
CREATES = Target(3000.0, 940.0)
GETS = Target(8000.0, 5100.0, "2,800/s, cached 5,100")
LIST = Target(100.0, 650.0, "650-1,100 ms")
POD_READY = Target(150.0, 660.0)
POD_GONE = Target(200.0, 1350.0)
DEPLOYMENT_READY = Target(4.0, 11.4)
DEPLOYMENT_GONE = Target(3.0, 7.9)
BOUND = Target(1.0, 5.2, "18 s, unlimited 5.2 s")
SCHEDULED = Target(2000.0, 810.0, "680-810 /s")
NODES_READY = Target(20.0, 60.0, "60 s (kwok's gate)")
SIMULATED_DAY = Target(20.0, 0.0, "not possible")
IDLE_DAY = Target(1.0, 0.0, "not possible")
IDLE_DAY_OF_THREE = Target(2.5, 0.0, "not possible")
FURTHER = Target(30.0, 0.0, "not possible")
PODS_RUNNING = Target(20.0, 60.0, "60 s (kwok's gate)")
