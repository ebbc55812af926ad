"""The node agent: makes the pods that the scheduler bound to this node real, and reports what became of them.

Read it in this order: `pod_plan.py` (what should happen next, a pure function), `worker.py` (performs it, one
worker a pod), `pod_status.py` (what is reported), `kubelet.py` (what wakes the workers).
"""
