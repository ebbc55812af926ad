"""Completion indexes of an Indexed job: which a pod has, and sets of them as text ("0-2,5")."""

from __future__ import annotations

from collections.abc import Iterable

from pinnace.api.core import v1 as core

ANNOTATION = "batch.kubernetes.io/job-completion-index"


def of_pod(pod: core.Pod) -> int | None:
    text = (pod.metadata.annotations or {}).get(ANNOTATION, "")
    return int(text) if text.isdecimal() else None


def of_pods(pods: Iterable[core.Pod], completions: int) -> set[int]:
    """The valid indexes that some pod has."""
    return {index for pod in pods if (index := of_pod(pod)) is not None and index < completions}


def parse(text: str | None) -> set[int]:
    """`"0-2,5"` → {0, 1, 2, 5}."""
    found: set[int] = set()
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def format(indexes: Iterable[int]) -> str:
    """{0, 1, 2, 5} → `"0-2,5"`; two in a row are written `"0,1"`, as upstream does."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    parts = (
        ",".join(map(str, run)) if len(run) < 3 else f"{run[0]}-{run[-1]}"
        for run in runs
    )
    return ",".join(parts)
