#!/bin/sh
# Runs tests on the Slurm of another Debian release, in a root directory of that release (its own Python, slurmd, munge, MariaDB).
# usage: slurm_release.sh SUITE [PYTEST ARGUMENTS]...    SUITE: trixie (Slurm 24.11), sid (26.05), or any other
# Root directories are made once, as root with mmdebstrap, and kept in $SOVCTL_SLURM_ROOTS (/var/cache/sovctl/slurm).
# Status 69: there is no root directory and none can be made here and now, as one line says; nothing was tested.
# `slurm_release.sh SUITE --make` makes the root only; `--shell` opens a shell there; `--record` renews tests/data/slurm/RELEASE.
set -eu

suite=${1:?usage: slurm_release.sh SUITE [PYTEST ARGUMENTS]...}
shift
here=$(cd "$(dirname "$0")/.." && pwd)
roots=${SOVCTL_SLURM_ROOTS:-/var/cache/sovctl/slurm}
root=$roots/$suite
fresh=$roots/.$suite.new
log=$roots/$suite.log
certificates=/etc/ssl/certs/ca-certificates.crt

say() {
    printf 'sovctl: %s\n' "$*" >&2
}

# Nothing of ours is at fault: the archive is away or has moved, or nobody may make a root directory here.
leave_out() {
    say "$suite is left out: $*"
    exit 69
}

packages() {
    printf '%s' "$(sh "$here/scripts/packages.sh" list | tr -s ' \n' ',,')python3,ca-certificates,procps,iproute2,git"
    # The one release of Debian that has it.
    [ "$suite" != sid ] || printf ',apptainer'
}

# A run of mmdebstrap that was killed leaves /proc, /sys and /dev of this machine mounted there; nothing may be removed then.
refuse_mounts() {
    real=$(readlink -m "$1")
    while read -r _ place _; do
        case $place in
            "$real" | "$real"/*) leave_out "$place is still mounted; look at it, then type: umount -R $real" ;;
        esac
    done </proc/self/mounts
}

# Beside the one that is there, which stays until the new one is whole.
make_root() {
    [ "$(cat "$root/.complete" 2>/dev/null)" != "$(packages)" ] || return 0
    sh "$here/scripts/packages.sh" mmdebstrap >"$log" 2>&1 || leave_out "mmdebstrap cannot be installed; see $log"
    say "making a Debian $suite in $root (about a minute)"
    for place in "$root" "$fresh"; do
        refuse_mounts "$place"
    done
    rm -rf --one-file-system "$fresh"
    # The release file of sid may be older than apt likes; for a root of tests that does not matter.
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::http::Timeout "60"' \
        --include="$(packages)" "$suite" "$fresh" >>"$log" 2>&1 </dev/null ||
        leave_out "no root directory of Debian $suite could be made: $(tail -n 1 "$log"); see $log"
    packages >"$fresh/.complete"
    rm -rf --one-file-system "$root"
    mv "$fresh" "$root"
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
        /opt/sovctl/bin/pip install --quiet --disable-pip-version-check -e ".[dev]" numpy' >"$log" 2>&1 ||
        leave_out "its Python packages could not be installed: $(tail -n 1 "$log"); see $log"
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

[ "$(id -u)" -eq 0 ] || leave_out "only root can make and enter $root"
mkdir -p "$roots" 2>/dev/null || leave_out "$roots cannot be made"
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
