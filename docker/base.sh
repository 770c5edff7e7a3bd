#!/bin/sh
# A base image where no registry is at hand: Debian's Python, and no more. Needs root, debootstrap and buildah.
#   docker/base.sh NAME
set -eu
name=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" >&2
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*

container=$(buildah from scratch)
cp -a "$root/." "$(buildah mount "$container")/"
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$name" >&2
