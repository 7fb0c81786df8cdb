#!/bin/sh
# Builds the Debian packages into dist/: sovctl (every release from Debian 12), sovctl-py-spy, and sovctl-slurm-plugin for
# the Slurm whose headers are here.
# usage: deb.sh PYTHON        SLURM_INCLUDE=DIR: headers of another Slurm
set -eu

python=$1
version=$("$python" -c 'import sovctl; print(sovctl.__version__)')
here=$(pwd)
work=build/deb
tree=$work/sovctl-$version
include=${SLURM_INCLUDE:-/usr/include}

sh scripts/packages.sh debhelper dh-python dpkg-dev fakeroot gcc libc6-dev make libslurm-dev
rm -rf "$work"
mkdir -p "$tree" dist
tar -cf - --exclude=__pycache__ --exclude=plugins/spank/build \
    sovctl plugins debian docs README.md CHANGELOG.md | tar -xf - -C "$tree"
grep -q "^sovctl ($version)" "$tree/debian/changelog" || {
    printf 'sovctl: debian/changelog does not begin with version %s\n' "$version" >&2
    exit 1
}
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    -d "$tree/debian/vendor" -r debian/vendor.txt
(cd "$tree" && SLURM_INCLUDE=$include dpkg-buildpackage -b -us -uc -d >"$here/$work/log" 2>&1) || {
    tail -30 "$work/log" >&2
    exit 1
}
mv "$work"/*.deb dist/
ls dist/*.deb
