#!/bin/sh
# Runs every test with the given Python: the quick ones first, then all others in a few processes (pytest-xdist). Those that
# drive Slurm mostly wait, so there is one process more than there are cores; each starts clusters of its own. Which tests
# stay together is said in tests/conftest.py; the long ones come first.
# usage: test.sh PYTHON [PYTEST OPTIONS]...
set -u

python=$1
shift
nothing_chosen=5 # pytest's status when no test was chosen, by -k for example
cores=$(nproc)
processes=$((cores < 7 ? cores + 1 : 8))

"$python" -m pytest tests/unit -n "$((cores < 8 ? cores : 8))" "$@"
quick=$?
[ "$quick" -eq 0 ] || [ "$quick" -eq "$nothing_chosen" ] || exit "$quick"

"$python" -m pytest -n "$processes" --dist loadgroup --no-loadscope-reorder \
    tests/slurm tests/train tests/contract tests/plugins tests/formats tests/cli "$@"
others=$?
[ "$others" -eq 0 ] || [ "$others" -eq "$nothing_chosen" ] || exit "$others"
[ "$quick$others" = "$nothing_chosen$nothing_chosen" ] && exit "$nothing_chosen"
exit 0
