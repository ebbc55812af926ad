#!/usr/bin/env bash
# The whole test run: style, types and layers beside the fast tests, then what needs the machine to itself.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
$bin/ruff check .
$bin/lint-imports
$bin/mypy &
types=$!
status=0
$bin/pytest -q -n 2 -m "not real and not root and not soak" "$@" || status=$?
wait $types || status=1
[ $status -eq 0 ] || exit $status
tools/pythons.sh
if [ "$(id -u)" -eq 0 ]; then
    $bin/pytest -q -m "(real or root) and not soak" "$@"
else
    echo "not root: the tests with real containers and namespaces were left out"
fi
