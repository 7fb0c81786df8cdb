#!/bin/sh
# Installs the Debian packages that are not there yet, without starting any service.
# usage: packages.sh [tests | list | PACKAGE...]   default: what the demo needs; tests: also what only the tests need;
# list: print the names of those without which no test on Slurm runs
set -eu

default='slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge gcc libc6-dev python3-venv make e2fsprogs'
for_tests='slurmdbd mariadb-server mariadb-client openssh-server openssh-client lua5.1 lua5.4 libslurm-dev
    bubblewrap squashfs-tools squashfuse skopeo umoci docker-registry busybox-static charliecloud'
for_pages='zsh fish man-db mandoc chromium'

say() {
    printf 'sovctl: %s\n' "$*" >&2
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Elsewhere than on Debian and Ubuntu only the programs can be looked for.
check_programs() {
    absent=
    for program in slurmctld slurmd sbatch munged gcc make; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || absent="$absent $program"
    done
    [ -n "$absent" ] || exit 0
    say "these programs are missing:$absent"
    say 'install the packages of Slurm, munge and gcc that your system has for them, then run make again'
    exit 1
}

# The maintainer scripts ask policy-rc.d before they start a daemon; 101 says no.
forbid_services() {
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || return 0
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

install() {
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    forbid_services
    say "installing:$missing"
    apt-get update -q >&2 || say 'the package lists could not be refreshed; trying with those that are there'
    # shellcheck disable=SC2086 # a list of words
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 $missing >&2
}

# shellcheck disable=SC2086 # lists of words
case "${1-}" in
    '') set -- $default ;;
    tests) set -- $default $for_tests $for_pages ;;
    list)
        printf '%s\n' $default $for_tests
        exit 0
        ;;
esac
command -v dpkg-query >/dev/null || check_programs

missing=
for package in "$@"; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    say "these Debian packages are missing:$missing"
    say "install them and run make again:  sudo apt-get install --no-install-recommends$missing"
    exit 1
fi
command -v apt-get >/dev/null || {
    say "these packages are missing and there is no apt-get to install them:$missing"
    exit 1
}
install
