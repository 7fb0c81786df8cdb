#!/bin/sh
# Builds a Slurm release that no distribution packages, for the tests of pyslurm, and a venv with the pyslurm that fits it.
# usage: slurm_from_source.sh RELEASE SOURCE     RELEASE: 25.11; SOURCE: an unpacked source tree of that release
# Result in $SOVCTL_SLURM_ROOTS/source-RELEASE (/var/cache/sovctl/slurm): slurm/{bin,sbin,lib} and venv/. About 8 minutes on
# 2 cores, once.
set -eu

release=${1:?usage: slurm_from_source.sh RELEASE SOURCE}
here=$(cd "$(dirname "$0")/.." && pwd)
target=${SOVCTL_SLURM_ROOTS:-/var/cache/sovctl/slurm}/source-$release

say() {
    printf 'sovctl: %s\n' "$*" >&2
}

build_slurm() {
    [ ! -x "$target/slurm/sbin/slurmctld" ] || return 0
    source=${2:?usage: slurm_from_source.sh RELEASE SOURCE}
    source=$(cd "$source" && pwd)
    sh "$here/scripts/packages.sh" gcc g++ make libmunge-dev libhttp-parser-dev libyaml-dev libjson-c-dev liblua5.4-dev
    mkdir -p "$target/build"
    cd "$target/build"
    say "building Slurm $release in $target"
    # Several slurmd on one machine: as Debian's packages are built.
    "$source/configure" --quiet --prefix="$target/slurm" --sysconfdir=/etc/slurm --enable-multiple-slurmd --without-rpath \
        CFLAGS='-O1 -pipe' >configure.log 2>&1 || { say "configure failed: see $target/build/configure.log"; exit 1; }
    { make -s -j"$(nproc)" && make -s install; } >make.log 2>&1 || { say "make failed: see $target/build/make.log"; exit 1; }
    rm -rf "$target/build"
}

# One pyslurm fits one release: 25.11.* is for Slurm 25.11.
build_pyslurm() {
    [ ! -e "$target/venv/complete" ] || return 0
    say "building pyslurm $release (about 3 minutes)"
    /usr/bin/python3 -m venv --clear "$target/venv"
    "$target/venv/bin/pip" install --quiet --disable-pip-version-check 'setuptools>=70' wheel 'Cython>=3.1' packaging
    SLURM_INCLUDE_DIR=$target/slurm/include SLURM_LIB_DIR=$target/slurm/lib "$target/venv/bin/pip" install --quiet \
        --disable-pip-version-check --no-build-isolation "pyslurm~=$release.0"
    "$target/venv/bin/pip" install --quiet --disable-pip-version-check -e "$here[dev]"
    touch "$target/venv/complete"
}

build_slurm "$@"
build_pyslurm
