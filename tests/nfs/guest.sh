#!/bin/sh
# The first process of the Linux in tests/nfs: makes an NFS server of it, mounts what it serves in several ways, and
# runs a program on the mounts. Its root directory is that of the machine; whatever is written goes to memory.
# kernel command line: nfs_root=DIR nfs_run=PROGRAM nfs_python=PYTHON
exec 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for word in $(cat /proc/cmdline); do
    case $word in nfs_*=*) export "$word" ;; esac
done
# shellcheck disable=SC2154 # set above
root=$nfs_root
libraries=/usr/lib/x86_64-linux-gnu
export PATH="$root/usr/sbin:$root/sbin:$root/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export LD_LIBRARY_PATH="$root$libraries:$root/lib/x86_64-linux-gnu" HOME=/run LC_ALL=C.UTF-8

# Whatever becomes of this script, the machine must end.
finish() {
    echo o >/proc/sysrq-trigger
    while :; do sleep 1; done
}
trap finish EXIT

for dir in /run /mnt /tmp /var/lib; do mount -t tmpfs tmpfs "$dir"; done
modules=$(echo "$root"/usr/lib/uml/modules/*/kernel)
for module in net/sunrpc/sunrpc fs/nfs_common/grace fs/nfs_common/nfs_acl lib/oid_registry \
    net/sunrpc/auth_gss/auth_rpcgss fs/lockd/lockd fs/nfsd/nfsd fs/netfs/netfs fs/fscache/fscache fs/nfs/nfs \
    fs/nfs/nfsv3 net/dns_resolver/dns_resolver fs/nfs/nfsv4 fs/overlayfs/overlay; do
    [ ! -e "$modules/$module.ko" ] || busybox insmod "$modules/$module.ko"
done

mkdir -p /run/etc/upper /run/etc/work /run/rpcbind /var/lib/nfs/rpc_pipefs /var/lib/nfs/sm /var/lib/nfs/sm.bak \
    /mnt/served /mnt/nfs4 /mnt/nfs4-other /mnt/nfs3 /mnt/nfs3-nolock
cp "$root/etc/netconfig" /etc/passwd /run/etc/upper/
cat >>/run/etc/upper/passwd <<'END'
_rpc:x:995:65534::/run/rpcbind:/usr/sbin/nologin
statd:x:996:65534::/var/lib/nfs:/usr/sbin/nologin
END
echo '/mnt/served 127.0.0.1(rw,no_root_squash,fsid=0,insecure,no_subtree_check,sync)' >/run/etc/upper/exports
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
for file in etab rmtab xtab state; do : >"/var/lib/nfs/$file"; done
ip link set lo up
# Not a tmpfs: its change attribute is a time, too coarse to tell two writes in one tick of the clock apart.
mount -t ext4 /dev/ubda /mnt/served
mount -t nfsd nfsd /proc/fs/nfsd
chmod 777 /run/rpcbind
rpcbind
rpc.statd --no-notify
exportfs -a
# To the server both mounts below are of one client, and it would not take a delegation back for one of them.
echo 0 >/proc/sys/fs/leases-enable
# The shortest there is: a server that has just started makes its clients wait for so long.
rpc.nfsd --grace-time 10 --lease-time 10 4
rpc.mountd >/dev/null 2>&1
mount.nfs4 127.0.0.1:/ /mnt/nfs4 -o retry=0,vers=4.2
# As on another machine: nothing is cached for both.
mount.nfs4 127.0.0.1:/ /mnt/nfs4-other -o retry=0,vers=4.2,nosharecache
mount.nfs 127.0.0.1:/mnt/served /mnt/nfs3 -o retry=0,vers=3
mount.nfs 127.0.0.1:/mnt/served /mnt/nfs3-nolock -o retry=0,vers=3,nolock
# shellcheck disable=SC2154 # set above
"$nfs_python" "$nfs_run"
