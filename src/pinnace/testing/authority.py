"""The certificate authorities of clusters for tests, each made when it is first asked for.

Clusters in simulated time share one a process, whose key comes from a seed of its own: whichever cluster asks first, it
is the same. Nobody outside of their loop can reach them. A cluster in real time has one that nobody can foretell.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.cluster.certificates import Authority

# TLS looks at the machine's clock, the API server at the simulated one; what is issued here is valid by both.
VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)
LIFE = timedelta(days=365 * 200)

_NAME = "kubernetes"
_simulated: list[Authority] = []


def simulated() -> Authority:
    """For every cluster in simulated time."""
    if not _simulated:
        _simulated.append(Authority(Authority.create(_NAME, VALID_FROM, life=LIFE, randomness=Randomness(0))))
    return _simulated[0]


def real(clock: Clock) -> Callable[[], Authority]:
    """For one cluster in real time."""
    made: list[Authority] = []

    def authority() -> Authority:
        if not made:
            made.append(Authority(Authority.create(_NAME, clock.now())))
        return made[0]

    return authority
