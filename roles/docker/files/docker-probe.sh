#!/bin/sh
# Proves that docker runs containers. Written by role flotilla.cluster.docker, which runs it: docker-probe IMAGE
#
# Makes IMAGE from the host's own /bin/busybox when it is missing, because no registry may be reachable, and runs it once
# for each start of docker: a container costs more than all other checks of the role together.
set -eu
image=$1
stamp=/run/flotilla/docker-probe
started=$(systemctl show --property=InvocationID --value docker.service)

if ! docker image inspect --format '{{.Id}}' "$image" >/dev/null 2>&1; then
    rm -f "$stamp"
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    mkdir -m 0755 "$root/bin" "$root/etc" "$root/www"
    mkdir -m 1777 "$root/tmp"
    chmod 0755 "$root"
    cp /bin/busybox "$root/bin/busybox"
    chroot "$root" /bin/busybox --install -s /bin
    echo 'root:x:0:0:root:/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false' >"$root/etc/passwd"
    echo 'root:x:0:
nogroup:x:65534:' >"$root/etc/group"
    # the same busybox gives the same layer on every host
    tar --create --directory "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . |
        docker import --change 'CMD ["/bin/sh"]' --change 'ENV PATH=/bin' - "$image" >/dev/null
fi

if [ "$(cat "$stamp" 2>/dev/null)" != "$started $image" ]; then
    said=$(docker run --rm "$image" /bin/echo works)
    [ "$said" = works ]
    # readable by all, as it is for the other files that roles keep there
    install --directory --mode=0755 "${stamp%/*}"
    echo "$started $image" >"$stamp"
fi
echo "$image has run"
