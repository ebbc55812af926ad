#!/usr/bin/env bash
# What leans on asyncio's inside (the simulated loop and its network) on every other supported Python that is here: on
# the PATH, or pyenv's. Each gets an environment of its own below .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
mine=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
seen=0
for version in 3.11 3.12 3.13 3.14; do
    [ "$version" = "$mine" ] && continue
    python=""
    for candidate in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
        # pyenv's shims are there for versions that are not.
        if [ -n "$candidate" ] && "$candidate" -c '' 2>/dev/null; then
            python=$candidate
        fi
    done
    [ -n "$python" ] || continue
    seen=$((seen + 1))
    place=.venv/pythons/$version
    if ! [ -e "$place/.installed" ] || [ pyproject.toml -nt "$place/.installed" ]; then
        "$uv" venv --quiet --clear --python "$python" "$place"
        "$uv" pip install --quiet --python "$place/bin/python" -e . --group test
        touch "$place/.installed"
    fi
    echo "with Python $version:"
    "$place/bin/python" -m pytest -q tests/testing/test_loop.py tests/testing/test_network.py \
        tests/testing/test_wallclock.py tests/testing/test_clients_in_simulated_time.py tests/testing/test_cluster_faults.py
done
[ $seen -gt 0 ] || echo "no other supported Python is here: the simulated loop was tested with $mine only"
