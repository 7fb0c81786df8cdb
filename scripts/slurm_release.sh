#!/bin/sh
# Runs tests on the Slurm of another Debian release, in a root directory of that release (its own Python, slurmd, munge, MariaDB).
# usage: slurm_release.sh SUITE [PYTEST ARGUMENTS]...    SUITE: trixie (Slurm 24.11), sid (26.05), or any other
# Root directories are made once, as root with mmdebstrap, and kept in $SOVCTL_SLURM_ROOTS (/var/cache/sovctl/slurm).
# `slurm_release.sh SUITE --make` makes the root only; `--shell` opens a shell there; `--record` renews tests/data/slurm/RELEASE.
set -eu

suite=${1:?usage: slurm_release.sh SUITE [PYTEST ARGUMENTS]...}
shift
here=$(cd "$(dirname "$0")/.." && pwd)
roots=${SOVCTL_SLURM_ROOTS:-/var/cache/sovctl/slurm}
root=$roots/$suite
certificates=/etc/ssl/certs/ca-certificates.crt

say() {
    printf 'sovctl: %s\n' "$*" >&2
}

packages() {
    printf '%s' "$(sh "$here/scripts/packages.sh" list | tr -s ' \n' ',,')python3,ca-certificates,procps,iproute2,git"
    # The one release of Debian that has it.
    [ "$suite" != sid ] || printf ',apptainer'
}

# A run of mmdebstrap that was killed leaves /proc, /sys and /dev of this machine mounted there; nothing may be removed then.
refuse_mounts() {
    real=$(readlink -m "$root")
    while read -r _ place _; do
        case $place in
            "$real" | "$real"/*)
                say "$place is still mounted; look at it, then type: umount -R $real"
                exit 1
                ;;
        esac
    done </proc/self/mounts
}

make_root() {
    [ "$(cat "$root/.complete" 2>/dev/null)" != "$(packages)" ] || return 0
    [ "$(id -u)" -eq 0 ] || {
        say "making $root needs root; run this as root once"
        exit 1
    }
    sh "$here/scripts/packages.sh" mmdebstrap
    say "making a Debian $suite in $root (about a minute)"
    refuse_mounts
    rm -rf --one-file-system "$root"
    mkdir -p "$roots"
    # The release file of sid may be older than apt likes; for a root of tests that does not matter.
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$(packages)" "$suite" "$root" >&2
    packages >"$root/.complete"
}

# Everything git would carry into a fresh clone, as it is now.
copy_checkout() {
    rm -rf "$root/srv/sovctl"
    mkdir -p "$root/srv/sovctl"
    (cd "$here" && git ls-files -z --cached --others --exclude-standard |
        xargs -0 sh -c 'for f; do [ ! -e "$f" ] && [ ! -L "$f" ] || printf "%s\0" "$f"; done' sh |
        tar --null --files-from=- -cf - --owner=0 --group=0) | tar -xf - -C "$root/srv/sovctl"
}

# In a mount and process namespace of its own: whatever the tests leave there ends with it.
inside() {
    SOVCTL_ROOT=$root CERTIFICATES=$certificates unshare --mount --propagation private --pid --fork --kill-child sh -c '
        set -e
        mount --bind "$SOVCTL_ROOT" "$SOVCTL_ROOT"
        mount -t proc proc "$SOVCTL_ROOT/proc"
        mount --rbind /sys "$SOVCTL_ROOT/sys"
        mount --rbind /dev "$SOVCTL_ROOT/dev"
        mount -t tmpfs -o mode=755 tmpfs "$SOVCTL_ROOT/run"
        cp /etc/resolv.conf /etc/hosts "$SOVCTL_ROOT/etc/" 2>/dev/null || true
        cp "$CERTIFICATES" "$SOVCTL_ROOT/etc/ssl/certs/ca-certificates.crt" 2>/dev/null || true
        cd "$SOVCTL_ROOT"
        # The real root of this namespace: in a chroot the kernel makes no user namespaces, and / can be no mount point.
        pivot_root . mnt
        umount -l /mnt
        cd /
        # Not exec: this shell is process 1 there and collects what daemons leave behind.
        /usr/bin/env HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
        exit $?
    ' sh "$@"
}

# The tests need no torch here: what needs it is skipped, and was run on the release this checkout lives on.
install_python() {
    wanted=$(sha256sum <"$here/pyproject.toml")
    [ "$(cat "$root/opt/sovctl/wanted" 2>/dev/null)" != "$wanted" ] || return 0
    say "installing the Python packages in $root"
    inside sh -ec '
        cd /srv/sovctl
        python3 -m venv --clear /opt/sovctl
        /opt/sovctl/bin/pip install --quiet --disable-pip-version-check -e ".[dev]" numpy'
    printf '%s' "$wanted" >"$root/opt/sovctl/wanted"
}

# What the tests of the parser read: recorded on a lab there, and brought into this checkout.
record() {
    inside sh -ec '
        cd /srv/sovctl
        release=$(PATH="$PATH:/usr/sbin" slurmd -V | sed "s/^[^0-9]*\([0-9]*\.[0-9]*\).*/\1/")
        /opt/sovctl/bin/python scripts/record_slurm.py "tests/data/slurm/$release"'
    cp -R "$root/srv/sovctl/tests/data/slurm" "$here/tests/data/"
}

mkdir -p "$roots"
exec 9>"$roots/$suite.lock"
flock -n 9 || {
    say "somebody else uses $root; waiting"
    flock 9
}
make_root
[ "${1-}" != --make ] || exit 0
copy_checkout
install_python
case ${1-} in
    --shell) inside sh -c 'cd /srv/sovctl && exec bash' ;;
    --record) record ;;
    *) inside sh -c 'cd /srv/sovctl && exec /opt/sovctl/bin/python -m pytest -p no:cacheprovider "$@"' sh "$@" ;;
esac
