#!/bin/sh
# Checks a daemon.json before docker gets to see it. Written by role flotilla.cluster.docker, which runs it:
#
#   docker-validate FILE [NEEDED...]
#
# NEEDED are files that docker could not start without. A dockerd of version 23 or newer checks a configuration by itself.
# An older one reads it, says what is wrong with it, and only then finds out that it may not run as an ordinary user.
set -u
file=$1
shift

for needed; do
    if [ ! -s "$needed" ]; then
        echo "docker_listen is set, but there is no $needed: run role pki before, or site.yml, which does" >&2
        exit 1
    fi
done
command -v dockerd >/dev/null || exit 0
if dockerd --help | grep --quiet -e --validate; then
    exec dockerd --validate --config-file "$file"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 0711 "$folder"
install --mode=0644 "$file" "$folder/daemon.json"
said=$(timeout 30 setpriv --reuid=65534 --regid=65534 --clear-groups \
    dockerd --host fd:// --config-file "$folder/daemon.json" 2>&1)
case $said in
*"needs to be started with root"*) ;;
*)
    echo "$said" | sed "s|$folder/daemon.json|$file|g" >&2
    exit 1
    ;;
esac
