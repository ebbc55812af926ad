"""`python -m tests.simulation [--json] SEED …`: runs seeds and says what they found; `FIRST-LAST/STEP` is many."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

from .run import Result, run

say = functools.partial(print, flush=True)


def seeds(words: list[str]) -> Iterator[int]:
    for word in words:
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?:/(\d+))?)?", word)
        if found is None:
            raise SystemExit(f"not a seed, and not FIRST-LAST or FIRST-LAST/STEP: {word}")
        first, last, step = found.groups()
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def tell(result: Result, spent: float) -> None:
    counts = f"{result.revisions} revisions, {result.crashes} crashes, {sum(result.faults.values())} faults"
    say(f"{result.seed}: {spent:.2f} s, {result.virtual:.0f} virtual, {counts}")
    if result.error:
        say(result.error)


def main(words: list[str]) -> int:
    as_json, bad = "--json" in words, 0
    for seed in seeds([word for word in words if word != "--json"]):
        began = time.process_time()
        result = run(seed)
        bad += bool(result.error)
        if as_json:
            say(json.dumps(asdict(result)))
        else:
            tell(result, time.process_time() - began)
    return 1 if bad else 0


sys.exit(main(sys.argv[1:]))
