#!/bin/sh
# Runs one container as the main process of a systemd service of Type=notify. Written by role flotilla.cluster.docker.
#
#   container NAME READY ARGUMENT...
#
# READY is "started" or "healthy": when systemd is told that the service is up. ARGUMENT... is what "docker run" takes
# from its options to the image and its command. The container belongs to dockerd, not to this process: it lives on
# while dockerd restarts (live-restore), and this process waits for it. The unit's ExecStop stops it and its
# ExecStopPost removes it, so that it is gone even when this process was killed.
set -u
name=$1 ready=$2
shift 2

say() { echo "container $name: $*" >&2; }

# systemd hears of the container from this process; podman would speak for it
run() { (unset NOTIFY_SOCKET && exec docker run --detach --name "$name" "$@"); }

# A container of this name is one that a crash of the machine has left; to look for it each time costs more than this.
if ! problem=$(run "$@" 2>&1 >/dev/null); then
    case $problem in
    *Conflict*"$name"*)
        docker rm --force "$name" >/dev/null
        run "$@" >/dev/null || exit 1
        ;;
    *)
        echo "$problem" >&2
        exit 1
        ;;
    esac
fi

# State, exit code and health in one line; fails only while dockerd does not answer, for up to five minutes.
look() {
    tries=0
    while ! state=$(docker inspect --format '{{.State.Status}} {{.State.ExitCode}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$name" 2>&1); do
        case $state in
        *"No such"*)
            state="gone 1"
            return
            ;;
        esac
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ]; then
            say "docker has not answered for five minutes: $state"
            exit 1
        fi
        sleep 1
    done
}

# docker checks the health in intervals of its own; a stream of its events would cost one more process for each container.
if [ "$ready" = healthy ]; then
    while look; do
        case $state in
        "running "*" healthy") break ;;
        "running "*" starting" | "created "*) sleep 0.2 ;;
        "running "*)
            say "is not healthy; its last check said:"
            docker inspect --format '{{range .State.Health.Log}}{{println .ExitCode .Output}}{{end}}' "$name" | grep -v '^$' | tail -n 2 >&2
            exit 1
            ;;
        *) break ;; # it has ended, which is told below
        esac
    done
fi
look
case $state in "running "*) systemd-notify --ready --status="container is $ready" ;; esac

# Its output goes to the journal, and ends with it or with dockerd.
since=0
while :; do
    docker logs --follow --since "$since" "$name"
    since=$(date +%s)
    look
    case $state in
    "running "* | "restarting "* | "paused "*) sleep 0.2 ;;
    *) break ;;
    esac
done
code=${state#* }
code=${code%% *}
[ "$code" = 0 ] || say "ended with $code"
exit "$code"
