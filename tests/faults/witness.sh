#!/usr/bin/env bash
# What a unit of the fault tests runs: says that it started, that it runs (five times a second), and that it was stopped.
# witness UNIT [SECONDS that stopping takes]
# Runs under bash, where waiting starts no process, and under busybox's shell, in containers.
unit=$1 slow=${2:-0} log=/var/lib/witness/log ending=
read -r boot </proc/sys/kernel/random/boot_id
[ -n "$BASH_VERSION" ] && eval 'exec 9<> <(:)'

nap() {
    if [ -n "$BASH_VERSION" ]; then read -r -t 0.2 -u 9; else sleep 0.2; fi
}

# One write to a file opened for appending: lines of several units never mix.
say() {
    read -r up _ </proc/uptime
    echo "$1 $unit ${WITNESS_HOST:-$HOSTNAME} $boot ${INVOCATION_ID:-none} $up" >>"$log"
}

trap 'ending=yes' TERM
say start
while [ -z "$ending" ]; do
    nap
    say beat
done
rest=$((slow * 5))
while [ "$rest" -gt 0 ]; do
    nap
    say beat
    rest=$((rest - 1))
done
say stop
exit 0
