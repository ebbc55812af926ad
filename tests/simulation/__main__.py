"""`python -m tests.simulation SEED [SEED …]`, or `FIRST-LAST`: runs seeds and says what they found."""

from __future__ import annotations

import sys
import time

from .run import run


def main() -> int:
    bad = 0
    for word in sys.argv[1:]:
        first, _, last = word.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            began = time.process_time()
            result = run(seed)
            spent = time.process_time() - began
            print(f"{seed}: {spent:.2f} s, {result.virtual:.0f} virtual, {result.revisions} revisions, "
                  f"{result.crashes} crashes, {sum(result.faults.values())} faults")  # noqa: T201  # fmt: skip
            if result.error:
                bad += 1
                print(result.error)  # noqa: T201
    return 1 if bad else 0


sys.exit(main())
