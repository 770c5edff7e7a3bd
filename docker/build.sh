#!/bin/sh
# Builds the images pd-router and pd-router-sim with buildah, where there is no Docker. Needs root.
#   docker/build.sh [FLAG FOR BUILDAH]...
# BASE_IMAGE names another base than one made of Debian's packages; PREFIX goes before the names of what is built.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "this needs root, for chroot and mounts" >&2; exit 1; }
command -v buildah >/dev/null || { echo "this needs buildah: apt-get install buildah debootstrap" >&2; exit 1; }

base=${BASE_IMAGE:-localhost/python-base:bookworm}
if [ -z "${BASE_IMAGE:-}" ] && ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    docker/base.sh "$base"
fi

# Behind a proxy that looks into TLS, pip has to know what this machine trusts.
trusted=/etc/ssl/certs/ca-certificates.crt
pip_conf=$(mktemp)
trap 'rm -f "$pip_conf"' EXIT
printf '[global]\ncert = %s\n' "$trusted" >"$pip_conf"
chmod 644 "$pip_conf"

for target in gateway sim; do
    name=${PREFIX:-localhost/}pd-router
    [ "$target" = gateway ] || name=$name-$target
    buildah build --isolation "${BUILDAH_ISOLATION:-chroot}" --format docker --layers --quiet \
        --timestamp "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" \
        --volume /etc/ssl/certs:/etc/ssl/certs:ro --volume "$pip_conf:/etc/pip.conf:ro" \
        --build-arg BASE_IMAGE="$base" \
        --build-arg VERSION="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' router/__init__.py)" \
        --build-arg REVISION="$(git rev-parse HEAD)" \
        "$@" --target "$target" --tag "$name" . >&2
    echo "$name"
done
