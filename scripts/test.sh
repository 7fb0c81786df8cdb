#!/bin/sh
# Runs every test with the given Python: the quick ones first, then those that drive Slurm beside all the others. Slurm's
# mostly wait, so that both take little longer than one; what runs beside is shown at its end.
# usage: test.sh PYTHON [PYTEST OPTIONS]...
set -u

python=$1
shift
nothing_chosen=5 # pytest's status when no test was chosen, by -k for example

"$python" -m pytest tests/unit "$@"
quick=$?
[ "$quick" -eq 0 ] || [ "$quick" -eq "$nothing_chosen" ] || exit "$quick"

beside=$(mktemp) || exit
"$python" -m pytest tests --ignore=tests/unit --ignore=tests/slurm --ignore=tests/plugins "$@" >"$beside" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null; rm -f "$beside"; exit 130' INT TERM

"$python" -m pytest tests/slurm tests/plugins "$@"
slurm=$?
wait "$pid"
others=$?
cat "$beside"
rm -f "$beside"

for status in "$slurm" "$others"; do
    [ "$status" -eq 0 ] || [ "$status" -eq "$nothing_chosen" ] || exit "$status"
done
[ "$quick$slurm$others" = "$nothing_chosen$nothing_chosen$nothing_chosen" ] && exit "$nothing_chosen"
exit 0
