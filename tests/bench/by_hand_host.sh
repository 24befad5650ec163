#!/usr/bin/env bash
# What by_hand.sh runs on a host, as root: packages with their configuration already in place, fleetd started, and a wait
# until this host sees the whole cluster.
set -euo pipefail

name="" address="" initial_cluster="" servers="" machines=""
# shellcheck source=/dev/null
source /run/by-hand/settings

begun=$EPOCHREALTIME
step() { # what was done since the last call
    awk -v a="$begun" -v b="$EPOCHREALTIME" -v what="$1" 'BEGIN {printf "%-14s %7.2f s\n", what, b - a}'
    begun=$EPOCHREALTIME
}
until_true() { # the command, or give up after two minutes
    local deadline=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "no success within two minutes: $*" >&2; exit 1; }
        sleep 0.05
    done
}

pki=/etc/flotilla/pki
# The package makes the user only when there is none, and the data only together with the user.
id etcd >/dev/null 2>&1 || useradd --system --home-dir /var/lib/etcd --shell /usr/sbin/nologin etcd
install -d -o etcd -g etcd -m 700 /var/lib/etcd
chown etcd "$pki/host.key"
chmod 400 "$pki/host.key"
cat >/etc/default/etcd <<END
ETCD_NAME=$name
ETCD_DATA_DIR=/var/lib/etcd/default
ETCD_LISTEN_CLIENT_URLS=https://$address:2379,https://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=https://$address:2379
ETCD_LISTEN_PEER_URLS=https://$address:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=https://$address:2380
ETCD_INITIAL_CLUSTER=$initial_cluster
ETCD_CLIENT_CERT_AUTH=true
ETCD_TRUSTED_CA_FILE=$pki/ca.crt
ETCD_CERT_FILE=$pki/host.crt
ETCD_KEY_FILE=$pki/host.key
ETCD_PEER_CLIENT_CERT_AUTH=true
ETCD_PEER_TRUSTED_CA_FILE=$pki/ca.crt
ETCD_PEER_CERT_FILE=$pki/host.crt
ETCD_PEER_KEY_FILE=$pki/host.key
END
mkdir -p /etc/fleet
cat >/etc/fleet/fleet.conf <<END
etcd_servers=$servers
etcd_cafile=$pki/ca.crt
etcd_certfile=$pki/host.crt
etcd_keyfile=$pki/host.key
public_ip=$address
END
cat >/etc/systemd/system/fleet.service <<END
[Service]
Type=notify
Environment=PYTHONPATH=/usr/lib/flotilla/fleet
ExecStart=/usr/bin/python3 -m flotilla_fleet.daemon
RuntimeDirectory=fleet

[Install]
WantedBy=multi-user.target
END

packages=(etcd-server etcd-client docker.io iptables python3-aiohttp python3-dbus-fast)
if dpkg-query -W "${packages[@]}" >/dev/null 2>&1; then
    systemctl daemon-reload
    systemctl enable --quiet --now etcd.service docker.service fleet.service
    step "services"
else
    # confold: etcd's configuration is there before etcd
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-download --no-install-recommends \
        -o Dpkg::Options::=--force-confold install "${packages[@]}" >/run/by-hand/apt.log 2>&1 ||
        { tail -n 20 /run/by-hand/apt.log >&2; exit 1; }
    step "packages"
    systemctl daemon-reload
    systemctl enable --quiet --now fleet.service
    step "fleetd"
fi

export ETCDCTL_API=3
until_true etcdctl --endpoints="$servers" --cacert="$pki/ca.crt" --cert="$pki/host.crt" --key="$pki/host.key" \
    endpoint health
step "etcd healthy"
until_true docker info
step "docker answers"
python3 -IS - "$machines" <<'END'
import http.client, json, socket, sys, time

class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/fleet.sock")

deadline = time.monotonic() + 120
seen = []
while len(seen) != int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"fleet shows {len(seen)} machines after two minutes, not {sys.argv[1]}")
    time.sleep(0.03)
    try:
        api = Local("fleet")
        api.request("GET", "/fleet/v1/machines")
        seen = json.load(api.getresponse()).get("machines", [])
    except (OSError, ValueError):
        pass
END
step "machines"
