#!/bin/sh
# Unpacks a Linux that runs as a program (User-mode Linux), with NFS server and client, into a directory. Nothing is
# installed, and this machine's kernel is not touched.
# usage: nfs.sh DIR
set -eu

dir=$1
packages='user-mode-linux nfs-kernel-server nfs-common libnfsidmap1 libtirpc3 libtirpc-common rpcbind libwrap0
    libevent-core-2.1-7 libkeyutils1 libdevmapper1.02.1'

[ ! -e "$dir/complete" ] || exit 0
command -v apt-get >/dev/null || {
    echo 'sovctl: only on Debian and Ubuntu are there packages of User-mode Linux; nothing was done' >&2
    exit 1
}
rm -rf "$dir"
mkdir -p "$dir/debs" "$dir/root"
cd "$dir/debs"
for package in $packages; do
    # The libraries have other names on other releases.
    apt-get download -q "$package" >&2 || echo "sovctl: there is no package $package here" >&2
done
for deb in ./*.deb; do
    dpkg-deb -x "$deb" "$dir/root"
done
rm -rf "$dir/debs"
[ -x "$dir/root/usr/bin/linux.uml" ] || {
    echo 'sovctl: the package user-mode-linux could not be had; look whether apt-get update works' >&2
    exit 1
}
: >"$dir/complete"
