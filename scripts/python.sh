#!/bin/sh
# Makes the virtual environment and installs sovctl into it, with what its tests and its training example need.
# usage: python.sh DIRECTORY [formats]
# With `formats` also the libraries whose checkpoints the tests save; without them those tests are skipped.
set -eu

venv=$1
wanted=${2:-}
here=$(dirname "$0")
cpu_index=https://download.pytorch.org/whl/cpu

say() {
    printf 'sovctl: %s\n' "$*" >&2
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# The system's own Python first: other users can run it too.
find_python() {
    for name in /usr/bin/python3 python3.11 python3.12 python3.13 python3.14 python3; do
        path=$(command -v "$name") || continue
        if is_new_enough "$path"; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

make_venv() {
    python=$(find_python) || {
        say 'sovctl needs Python 3.11 or newer and finds none; install it and run make again'
        exit 1
    }
    "$python" -c 'import ensurepip, venv' 2>/dev/null || sh "$here/packages.sh" python3-venv
    "$python" -m venv --clear "$venv"
}

# PyTorch without CUDA, where its index answers; pip then prefers the +cpu build of the same version.
index_options() {
    probe='import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3).close()'
    if timeout 4 "$venv/bin/python" -c "$probe" "$cpu_index/torch/" 2>/dev/null; then
        printf '%s\n' "--extra-index-url=$cpu_index"
    fi
}

install_formats() {
    pip=$venv/bin/pip
    # DeepSpeed's build asks the torch that is installed, and compiles nothing here.
    # shellcheck disable=SC2046 # one word or none
    "$pip" install --quiet --disable-pip-version-check $(index_options) -e "$here/..[formats]" >&2 &&
        DS_BUILD_OPS=0 "$pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
            -r "$here/../tests/formats/requirements.txt" >&2
}

if [ "$wanted" = formats ]; then
    install_formats || say 'some libraries of the checkpoint formats do not install here; their tests are skipped'
    touch "$venv/formats"
    exit 0
fi

{ is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; } || make_venv
# shellcheck disable=SC2046 # one word or none
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check $(index_options) -e '.[dev,train]' >&2
touch "$venv/installed"
