#!/bin/sh
# Runs benchmarks one after the other; each prints its own JSON on stdout.
# usage: bench.sh PYTHON NAME...
set -u

python=$1
shift

names() {
    for file in bench/*.py; do
        [ -e "$file" ] && basename "$file" .py
    done
}

[ "$#" -gt 0 ] || {
    printf 'sovctl: which benchmark? make bench NAME="..." with: %s\n' "$(names | tr '\n' ' ')" >&2
    exit 2
}
for name in "$@"; do
    [ -e "bench/$name.py" ] || {
        printf 'sovctl: there is no benchmark %s; there are: %s\n' "$name" "$(names | tr '\n' ' ')" >&2
        exit 2
    }
done

status=0
for name in "$@"; do
    "$python" "bench/$name.py" || status=$?
done
exit "$status"
