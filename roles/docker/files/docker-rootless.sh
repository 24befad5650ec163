#!/bin/sh
# Docker without root's powers, as a service of a user. Written by role flotilla.cluster.docker.
#
#   docker-rootless check USER    says what the host or the user lacks (host_service runs it before it writes anything)
#   docker-rootless run USER      ExecStart of docker.service: has USER's systemd run it, for as long as it runs
#   docker-rootless stop USER     ExecStopPost of docker.service
#   docker-rootless daemon        ExecStart of the user's own flotilla-docker.service
#
# The socket is where everybody looks for docker's: /run/docker.sock leads to one in a folder that only USER and root enter.
set -eu
what=$1 user=${2:-}
folder=/run/flotilla-docker
programs="/usr/bin/dockerd-rootless.sh /usr/share/docker.io/contrib/dockerd-rootless.sh"

fail() {
    echo "docker_rootless_user is $user: $*" >&2
    exit 1
}

program() {
    for found in $programs; do
        [ ! -x "$found" ] || { echo "$found" && return; }
    done
    return 1
}

if [ "$what" = daemon ]; then
    # authorities of registries are where root's docker has them
    mkdir -p "$HOME/.config/docker"
    [ -e "$HOME/.config/docker/certs.d" ] || ln -sfn /etc/docker/certs.d "$HOME/.config/docker/certs.d"
    exec "$(program)" --host="unix://$folder/docker.sock" --config-file=/etc/docker/daemon.json
fi

uid=$(id -u "$user" 2>/dev/null) || fail "there is no such user on this host; make it with: useradd --create-home $user"
gid=$(id -g "$user")
home=$(getent passwd "$user" | cut -d: -f6)

as_user() {
    setpriv --reuid="$uid" --regid="$gid" --init-groups env -i "HOME=$home" "PATH=$PATH" "XDG_RUNTIME_DIR=/run/user/$uid" \
        "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$uid/bus" "$@"
}

ids() {
    awk -F: -v name="$user" -v id="$uid" '$1 == name || $1 == id { n += $3 } END { exit n < 65536 }' "/etc/sub$1" 2>/dev/null
}

check() {
    [ "$uid" != 0 ] || fail "that is root; name another user"
    [ -d "$home" ] || fail "its home $home, where images and containers are to be, does not exist; make it"
    for kind in uid gid; do
        ids "$kind" || fail "it has fewer than 65536 ids in /etc/sub$kind, of which users in containers are made; add them" \
            "with: usermod --add-sub${kind}s 100000-165535 $user (a range that nobody else has)"
    done
    # nothing is installed yet in check mode
    command -v dockerd >/dev/null || return 0
    program >/dev/null || fail "none of $programs is there; install the package that brings one"
    for needed in newuidmap newgidmap slirp4netns; do
        command -v "$needed" >/dev/null || fail "the program $needed is missing; install its package (docker_packages)"
    done
    as_user test -w /dev/net/tun || fail "it may not open /dev/net/tun, through which containers reach the network; give" \
        "that mode 0666, as udev does"
    if [ -S /run/docker.sock ] && [ ! -L /run/docker.sock ] && [ -n "$(docker ps --quiet 2>/dev/null)" ]; then
        fail "root's docker runs containers on this host, which nothing would stop any more; drain the machine and stop them first"
    fi
}

case $what in
check) check ;;
stop) as_user systemctl --user stop flotilla-docker.service ;;
run)
    check
    # the user's systemd runs without the user being there
    loginctl enable-linger "$user"
    systemctl start "user@$uid.service"
    install -d -o "$uid" -g "$gid" -m 0700 "$folder"
    ln -sfn "${folder##*/}/docker.sock" /run/docker.sock
    as_user systemctl --user daemon-reload
    as_user systemctl --user start flotilla-docker.service
    systemd-notify --ready --status="docker runs as $user"
    as_user systemctl --user start --wait flotilla-docker.service || :
    fail "its flotilla-docker.service has ended; look at: journalctl _UID=$uid"
    ;;
*)
    echo "docker-rootless: $what is none of check, run, stop and daemon" >&2
    exit 2
    ;;
esac
