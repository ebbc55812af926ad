#!/usr/bin/env bash
# Make .venv and install Pinnace into it: `run` for use, `test` with what the tests need.
set -euo pipefail
cd "$(dirname "$0")/.."
python=""
# A distribution's Python is built with profiles and links its library statically. One built from source by hand (pyenv)
# is often neither, and then everything here takes half as long again.
for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { echo "Pinnace needs Python 3.11 or newer" >&2; exit 1; }
if ! [ -x .venv/bin/python ]; then
    # Debian splits ensurepip off into python3-venv.
    "$python" -m venv .venv 2>/dev/null || {
        [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || { echo "install python3-venv" >&2; exit 1; }
        rm -rf .venv
        apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
        "$python" -m venv .venv
    }
fi
[ -x .venv/bin/pip ] || .venv/bin/python -m ensurepip -q 2>/dev/null
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore)
case "${1:-run}" in
run) "${pip[@]}" -e . ;;
test)
    "${pip[@]}" uv
    .venv/bin/uv pip install --quiet --python .venv/bin/python -e . --group dev
    ;;
*) echo "usage: tools/venv.sh run|test" >&2; exit 2 ;;
esac
# The first start would otherwise spend a second on it.
.venv/bin/python -m compileall -q src/pinnace
