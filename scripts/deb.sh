#!/bin/sh
# Builds the Debian packages into dist/: sovctl (every release from Debian 12), sovctl-py-spy, and sovctl-slurm-plugin for
# the Slurm whose headers are here.
# usage: deb.sh PYTHON        SLURM_INCLUDE=DIR: the plugin for another Slurm, by its headers
set -eu

python=$1
version=$("$python" -c 'import sovctl; print(sovctl.__version__)')
here=$(pwd)
work=build/deb
tree=$work/sovctl-$version
include=${SLURM_INCLUDE:-/usr/include}
# Of another Slurm only the plugin differs.
which=-b
[ "$include" = /usr/include ] || which=-B

sh scripts/packages.sh debhelper dh-python dpkg-dev fakeroot gcc libc6-dev make libslurm-dev
rm -rf "$work"
mkdir -p "$tree" dist
# shellcheck disable=SC2046 # names without blanks, or none
tar -cf - --exclude=__pycache__ --exclude=plugins/spank/build \
    sovctl plugins debian docs README.md CHANGELOG.md $(ls -d man completions 2>/dev/null) | tar -xf - -C "$tree"
# debhelper takes a CHANGELOG in the top directory for Debian's own.
mv "$tree/CHANGELOG.md" "$tree/docs/"
grep -q "^sovctl ($version)" "$tree/debian/changelog" || {
    printf 'sovctl: debian/changelog does not begin with version %s\n' "$version" >&2
    exit 1
}
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    -d "$tree/debian/vendor" -r debian/vendor.txt
(cd "$tree" && SLURM_INCLUDE=$include dpkg-buildpackage $which -us -uc -d >"$here/$work/log" 2>&1) || {
    tail -30 "$work/log" >&2
    exit 1
}
mv "$work"/*.deb dist/
ls dist/*.deb
