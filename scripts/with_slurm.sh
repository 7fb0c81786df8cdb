#!/bin/sh
# Runs Python with a Slurm that scripts/slurm_from_source.sh built, and with its pyslurm.
# usage: with_slurm.sh RELEASE PYTHON-ARGUMENTS...
set -eu

target=${SOVCTL_SLURM_ROOTS:-/var/cache/sovctl/slurm}/source-${1:?usage: with_slurm.sh RELEASE PYTHON-ARGUMENTS...}
shift
[ -x "$target/slurm/sbin/slurmctld" ] || {
    printf 'sovctl: %s is not there; make it with scripts/slurm_from_source.sh\n' "$target" >&2
    exit 1
}
PATH=$target/slurm/bin:$target/slurm/sbin:$PATH LD_LIBRARY_PATH=$target/slurm/lib exec "$target/venv/bin/python" "$@"
