#!/bin/sh
# Runs a program from an image as a container engine would: as the image's user, without privileges, in namespaces of its
# own but for the network, on a root that cannot be written to. Needs root and util-linux, here and in the image.
#   docker/run.sh ROOT VARIABLE=VALUE... PROGRAM ARGUMENT...       ROOT is where the image is mounted
set -eu
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --pid --ipc --uts --fork --kill-child "$0" --inside "$@"
fi
root=$2
shift 2

mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
for device in null zero urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,bind,ro "$root"

user=65532 # as the Dockerfile says
exec /usr/sbin/chroot "$root" \
    /usr/bin/setpriv --reuid=$user --regid=$user --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
    --pdeathsig=KILL \
    /usr/bin/env -i "$@"
