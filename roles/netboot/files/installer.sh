#!/bin/sh
# Writes a disk from the network, once, and tells the server. Runs in an initramfs of initramfs-tools with busybox, for
# boot=flotilla on the kernel's command line. POSIX sh; what it does comes from the server as words, never as code.

say() {
    echo "flotilla: $*" >/dev/console
}

# One attempt that failed: nothing more is done, the server gets to know, and the next one begins in half a minute.
give_up() {
    say "$*"
    report failed "$*"
    exit 1
}

# --- the network, as the kernel's command line has it ---

# The kernel's name of an interface that is named by its MAC address; any other name stays as it is.
device() {
    case "$1" in
        ??:??:??:??:??:??)
            for found in /sys/class/net/*; do
                # not a bond or VLAN, which may have the same address
                if [ -e "$found/device" ] && [ "$(cat "$found/address")" = "$1" ]; then
                    echo "${found##*/}"
                    return
                fi
            done
            ;;
    esac
    echo "$1"
}

step() {
    old_ifs=$IFS
    IFS=,
    # shellcheck disable=SC2086 # to be split
    set -- $1
    IFS=$old_ifs
    case "$1" in
        name)
            from=$(device "$2")
            [ "$from" = "$3" ] || { ip link set dev "$from" down; ip link set dev "$from" name "$3"; }
            ;;
        bond)
            modprobe bonding max_bonds=0
            echo "+$2" >/sys/class/net/bonding_masters
            echo "$3" >"/sys/class/net/$2/bonding/mode"
            echo 100 >"/sys/class/net/$2/bonding/miimon"
            for part in $(echo "$4" | tr + ' '); do
                part=$(device "$part")
                ip link set dev "$part" down
                echo "+$part" >"/sys/class/net/$2/bonding/slaves"
            done
            ;;
        vlan)
            modprobe 8021q
            ip link set dev "$3" up
            ip link add link "$3" name "$2" type vlan id "$4"
            ;;
        mtu) ip link set dev "$(device "$2")" mtu "$3" ;;
        up) ip link set dev "$(device "$2")" up ;;
        address) ip address add "$3" dev "$(device "$2")" ;;
        route) ip route add "$2" via "$3" ;;
        dhcp) ipconfig -t 60 -c dhcp -d "$(device "$2")" ;;
        *) say "does not know how to '$1'" ;;
    esac
}

# --- the server ---

fetch() {
    # without -T: a busybox that was built without it falls over it
    wget -q -O - "$1"
}

# report WHAT TEXT: leaves a word about this machine at the server, 0 when it has it
report() {
    hostport=${url#http://}
    hostport=${hostport%%/*}
    host=${hostport%:*}
    # an IPv6 address stands in brackets
    host=${host#[}
    host=${host%]}
    {
        printf 'PUT /%s/%s HTTP/1.0\r\nHost: %s\r\nContent-Length: %s\r\n\r\n' "$1" "$key" "$hostport" "${#2}"
        printf '%s' "$2"
    } | nc -w 10 "$host" "${hostport##*:}" 2>/dev/null | grep -q '^HTTP/1.. 20'
}

# --- the disk ---

is_there() {
    [ -b "$1" ]
}

# 0 when nothing can be lost: partition tables, file systems, RAID and LVM all write near the beginning or the end
is_empty() {
    mebibytes=$(($(blockdev --getsize64 "$1") / 1048576))
    [ "$mebibytes" -ge 2 ] || return 1
    for at in 0 $((mebibytes - 1)); do
        [ "$(dd if="$1" bs=1048576 skip="$at" count=1 2>/dev/null | tr -d '\000' | wc -c)" -eq 0 ] || return 1
    done
    # what is behind the last whole mebibyte
    [ "$(dd if="$1" bs=4096 skip=$((mebibytes * 256)) 2>/dev/null | tr -d '\000' | wc -c)" -eq 0 ]
}

unpack() {
    case "$1" in
        gzip) gunzip -c ;;
        xz) xzcat ;;
        bzip2) bunzip2 -c ;;
        *) cat ;;
    esac
}

# The image goes through once: to its checksum, and unpacked to the disk. 0 when all of it arrived as it should.
write_image() {
    rm -f /run/sum /run/sum.is /run/failed
    mkfifo /run/sum
    sha256sum </run/sum >/run/sum.is &
    summing=$!
    { fetch "$image" || echo "cannot fetch $image" >/run/failed; } | tee /run/sum |
        { unpack "$unpack" || echo "cannot unpack $image" >/run/failed; } |
        { cat >"$disk" || { echo "cannot write it to $disk" >/run/failed; cat >/dev/null; }; }
    wait "$summing"
    sync
    read -r is rest </run/sum.is
    : "$rest"
    [ "$is" = "$sha256" ] || echo "the image has the SHA-256 $is in place of $sha256" >>/run/failed
    [ ! -s /run/failed ]
}

# So that a disk that got half of an image neither boots nor looks like one that somebody needs
clear_ends() {
    mebibytes=$(($(blockdev --getsize64 "$disk") / 1048576))
    dd if=/dev/zero of="$disk" bs=1048576 count=1 2>/dev/null
    dd if=/dev/zero of="$disk" bs=1048576 seek=$((mebibytes - 1)) 2>/dev/null
    sync
}

# The partition of the disk that has the label, mounted; else 1
mount_labelled() {
    blockdev --rereadpt "$disk" 2>/dev/null
    udevadm settle --timeout=10
    real=$(readlink -f "$disk")
    for entry in /sys/class/block/"${real##*/}"/*/partition; do
        [ -e "$entry" ] || continue
        part=${entry%/partition}
        part=/dev/${part##*/}
        [ "$(blkid -s LABEL -o value "$part")" = "$label" ] || continue
        type=$(blkid -s TYPE -o value "$part")
        modprobe -q "$type"
        mkdir -p /run/installed
        mount -t "$type" "$part" /run/installed && return 0
    done
    return 1
}

mark() {
    printf '%s' "$key" | sha256sum | cut -d ' ' -f 1
}

# 0 when this very installation is on the disk already, and only the server does not know
is_done() {
    mount_labelled || return 1
    [ "$(cat /run/installed/.flotilla-installed 2>/dev/null)" = "$(mark)" ]
    found=$?
    umount /run/installed
    return $found
}

write_documents() {
    mount_labelled || { echo "the image has no partition labelled $label" >/run/failed; return 1; }
    mkdir -p "/run/installed$seed"
    [ "$seed" = / ] || chmod 0700 "/run/installed$seed"
    while read -r word name digest; do
        [ "$word" = document ] || continue
        fetch "$url/keys/$key/$name" >"/run/installed$seed/$name"
        chmod 0600 "/run/installed$seed/$name"
        if [ "$(sha256sum <"/run/installed$seed/$name" | cut -d ' ' -f 1)" != "$digest" ]; then
            echo "$name did not arrive as the server has it" >/run/failed
            umount /run/installed
            return 1
        fi
    done </run/orders
    # last, so that it stands for all of it
    mark >/run/installed/.flotilla-installed
    sync
    umount /run/installed
}

attempt() {
    fetch "$url/keys/$key/orders" >/run/orders ||
        give_up "cannot fetch the orders of $key from $url; is the network as the inventory says?"
    disk='' wipe=no image='' sha256='' unpack=none label='' seed=/
    while read -r word value; do
        case "$word" in
            disk) disk=$value ;;
            wipe) wipe=$value ;;
            image) image=$value ;;
            sha256) sha256=$value ;;
            unpack) unpack=$value ;;
            label) label=$value ;;
            seed) seed=$value ;;
        esac
    done </run/orders
    tries=30
    until is_there "$disk"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || give_up "there is no disk $disk; correct netboot_disk"
        sleep 1
    done
    if is_done; then
        say "$disk has this installation already"
        return 0
    fi
    if ! is_empty "$disk"; then
        [ "$wipe" = yes ] ||
            give_up "$disk is not empty and stays as it is; to destroy what is on it set netboot_wipe to the host's name"
        say "$disk is not empty, and netboot_wipe says that this is wanted"
    fi
    say "writing $image to $disk"
    if ! write_image; then
        clear_ends
        give_up "$(cat /run/failed)"
    fi
    if ! write_documents; then
        clear_ends
        give_up "$(cat /run/failed)"
    fi
    say "$disk is installed"
}

# --- what initramfs-tools calls in place of mounting a root file system ---

mountroot() {
    url='' key=''
    # shellcheck disable=SC2013 # words are what is wanted
    for word in $(cat /proc/cmdline); do
        case "$word" in
            flotilla.url=*) url=${word#*=} ;;
            flotilla.key=*) key=${word#*=} ;;
        esac
    done
    wait_for_udev 10
    # shellcheck disable=SC2013 # words are what is wanted
    for word in $(cat /proc/cmdline); do
        case "$word" in
            flotilla.net=*) step "${word#*=}" ;;
        esac
    done
    until (attempt); do
        sleep 30
    done
    # Nothing is written any more: without the server's knowledge the machine would only come back here.
    until report installed ''; do
        say "cannot tell $url that the machine is installed; trying again"
        sleep 5
    done
    say "the server knows; the machine boots from its disk now"
    sync
    reboot -f
    sleep 60
}
