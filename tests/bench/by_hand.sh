#!/usr/bin/env bash
# Brings up what playbooks/site.yml brings up, with as little work as somebody could do by hand, so that the play can be
# measured against it: one authority and one certificate a host made here, and one ssh connection a host that carries
# every file and runs by_hand_host.sh. Nothing is checked beforehand and a second run starts over.
#
#   by_hand.sh SSH_CONFIG WORK_DIRECTORY HOST=ADDRESS...
#
# Ends when every host sees a healthy etcd of all hosts, docker answers, and fleet shows all machines. Prints the seconds
# that the steps took.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ssh_config=$1 work=$2
shift 2

begun=$EPOCHREALTIME
step() { # what was done since the last call
    awk -v a="$begun" -v b="$EPOCHREALTIME" -v what="$1" 'BEGIN {printf "%-24s %7.2f s\n", what, b - a}'
    begun=$EPOCHREALTIME
}

mkdir -p "$work/tree/usr/lib/flotilla/fleet"
cp -rL "$here/../../fleet/flotilla_fleet" "$work/tree/usr/lib/flotilla/fleet/"
rm -rf "$work/tree/usr/lib/flotilla/fleet/flotilla_fleet/__pycache__"
mkdir -p "$work/tree/run/by-hand"
cp "$here/by_hand_host.sh" "$work/tree/run/by-hand/host.sh"

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
openssl req -x509 "${new_key[@]}" -keyout "$work/ca.key" -out "$work/ca.crt" -subj "/CN=by hand" -days 2 2>/dev/null
initial_cluster="" servers="" machines=$#
for host in "$@"; do
    initial_cluster+="${initial_cluster:+,}${host%%=*}=https://${host#*=}:2380"
    servers+="${servers:+,}https://${host#*=}:2379"
done

certificate() { # of one host, for all its connections
    local name=$1 address=$2 folder=$3
    mkdir -p "$folder"
    openssl req "${new_key[@]}" -keyout "$folder/host.key" -out "$folder/host.csr" -subj "/CN=$name" 2>/dev/null
    openssl x509 -req -in "$folder/host.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -days 1 -out "$folder/host.crt" \
        -extfile <(printf 'subjectAltName=IP:%s,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$address") \
        2>/dev/null
    cp "$work/ca.crt" "$folder/"
}

bring_up() { # one host, from its certificate to the whole cluster seen from it
    local name=$1 address=$2 tree=$work/$1
    certificate "$name" "$address" "$tree/etc/flotilla/pki"
    mkdir -p "$tree/run/by-hand"
    cat >"$tree/run/by-hand/settings" <<END
name=$name
address=$address
initial_cluster=$initial_cluster
servers=$servers
machines=$machines
END
    tar -C "$work/tree" -c usr run -C "$tree" etc run |
        ssh -F "$ssh_config" "$name" "tar -x -C / --no-same-owner && bash /run/by-hand/host.sh" |
        sed "s/^/  $name: /"
}
step "authority"

pids=()
for host in "$@"; do
    bring_up "${host%%=*}" "${host#*=}" &
    pids+=($!)
done
for pid in "${pids[@]}"; do
    wait "$pid"
done
step "hosts"
