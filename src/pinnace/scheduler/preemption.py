"""Preemption: where a pod of higher priority would fit if less important ones left. Pure: it names the victims.

Upstream's order of preference among nodes (defaultpreemption): fewest violated budgets, lowest highest victim
priority, lowest sum of priorities, fewest victims, latest start of the most important victim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pinnace.scheduler.cycle import Cycle, Unschedulable, describe
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Misfit
from pinnace.scheduler.podinfo import PodInfo

# Upstream looks at a tenth of the nodes, and at least at so many.
_LEAST_CANDIDATES = 100

_NOT_HELPFUL = Misfit("Preemption is not helpful for scheduling")
_NO_VICTIMS = Misfit("No preemption victims found for incoming pod")

# Whether a budget would be violated if the pod went.
Protected = Callable[[PodInfo], bool]


@dataclass(frozen=True, slots=True)
class Preemption:
    """`node` is None if it does not help anywhere; then `message` says why, by node."""

    node: str | None
    victims: tuple[PodInfo, ...] = ()
    message: str = ""


def preempt(pod: PodInfo, failed: Unschedulable, nodes: Nodes, cycle: Cycle, protected: Protected) -> Preemption:
    """Which pods should leave which node for this pod."""
    why: dict[str, Sequence[Misfit]] = {}
    candidates: list[tuple[NodeInfo, tuple[PodInfo, ...], int]] = []
    if pod.pod.spec.preemptionPolicy == "Never":
        return Preemption(None, message="not eligible due to preemptionPolicy=Never.")
    for name, misfits in failed.misfits.items():
        node = nodes.get(name)
        if node is None or not all(misfit.preemptible for misfit in misfits):
            why[name] = (_NOT_HELPFUL,)
            continue
        found = _victims(pod, node, nodes, cycle, protected)
        if found is None:
            why[name] = (_NO_VICTIMS,)
            continue
        candidates.append((node, *found))
        if len(candidates) >= max(_LEAST_CANDIDATES, len(nodes) // 10):
            break
    if not candidates:
        return Preemption(None, message=describe(len(failed.misfits), why.values()))
    best = min(candidates, key=lambda candidate: _preference(candidate[1], candidate[2]))
    return Preemption(best[0].name, best[1])


def _victims(
    pod: PodInfo, node: NodeInfo, nodes: Nodes, cycle: Cycle, protected: Protected
) -> tuple[tuple[PodInfo, ...], int] | None:
    lower = [info for info in node.pods.values() if info.priority < pod.priority]
    if not lower or not cycle.fits(pod, node.without({info.uid for info in lower}), nodes):
        return None
    # Those that may stay are taken back one by one, first the ones with a budget, then the most important.
    gone = {info.uid for info in lower}
    violations = 0
    for info in sorted(lower, key=lambda info: (not protected(info), -info.priority, _started(info))):
        if cycle.fits(pod, node.without(gone - {info.uid}), nodes):
            gone.discard(info.uid)
        elif protected(info):
            violations += 1
    victims = sorted((info for info in lower if info.uid in gone), key=lambda info: (-info.priority, _started(info)))
    return tuple(victims), violations


def _preference(victims: tuple[PodInfo, ...], violations: int) -> tuple[int, int, int, int, str]:
    highest = victims[0].priority if victims else 0
    newest_first = "".join(chr(0x10FFFF - ord(letter)) for letter in _started(victims[0])) if victims else ""
    return violations, highest, sum(info.priority for info in victims), len(victims), newest_first


def _started(info: PodInfo) -> str:
    status = info.pod.status
    return status.startTime or info.pod.metadata.creationTimestamp or ""
