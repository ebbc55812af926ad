"""`python -m tests.simulation SEED [SEED …]`, or `FIRST-LAST`: runs seeds and says what they found."""

from __future__ import annotations

import functools
import sys
import time

from .run import run

say = functools.partial(print, flush=True)


def main() -> int:
    bad = 0
    for word in sys.argv[1:]:
        first, _, last = word.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            began = time.process_time()
            result = run(seed)
            spent = time.process_time() - began
            counts = f"{result.revisions} revisions, {result.crashes} crashes, {sum(result.faults.values())} faults"
            say(f"{seed}: {spent:.2f} s, {result.virtual:.0f} virtual, {counts}")
            if result.error:
                bad += 1
                say(result.error)
    return 1 if bad else 0


sys.exit(main())
