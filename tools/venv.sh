#!/usr/bin/env bash
# Makes .venv from requirements/dev.txt (pinned, with hashes) and the link by which Ansible finds this checkout as
# flotilla.cluster. Does nothing, in milliseconds, when both are there already. Run by `make venv`.
#
# A .venv that was left half-made, was moved, or whose Python has gone is made again; one made from an older lock is
# brought to the new one in place, so that a program that runs from it meanwhile keeps its files.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=$root/.venv
lock=requirements/dev.txt
stamp=$venv/.stamp
versions=(3.13 3.12 3.11) # newest first; the lock holds for each

say() { printf 'venv: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

lock_hash() { sha256sum "$lock" | cut -d' ' -f1; }

# The stamp is written last. Its first line is the folder, as programs in bin/ know only that one.
made() { [[ -f $stamp && $(head -n1 "$stamp") == "$venv" ]] && "$venv/bin/python" -c '' 2>/dev/null; }
current() { made && [[ $(tail -n1 "$stamp") == "$(lock_hash)" ]]; }

link_collection() {
    local link=.collections/ansible_collections/flotilla/cluster
    [[ $(readlink "$link" 2>/dev/null) == ../../.. ]] && return
    mkdir -p "${link%/*}"
    # replaced in one step, so that a running program never finds it missing
    ln -sfn ../../.. "$link.$$"
    mv -fT "$link.$$" "$link"
}

# Prints the real executable behind a command, if that runs and has the version asked for. A shim of a version manager
# may be in PATH and yet not run, while the Python it stands for lies elsewhere: each candidate is started. The Python
# of a virtual environment, this one perhaps, stands for the one it was made from.
probe() {
    "$1" -c 'import sys; "%d.%d" % sys.version_info[:2] == sys.argv[1] or sys.exit(1); print(sys._base_executable)' \
        "$2" 2>/dev/null
}

find_python() {
    local version folder folders=()
    IFS=: read -ra folders <<<"$PATH"
    folders+=(/usr/bin /usr/local/bin "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin)
    for version in "${versions[@]}"; do
        for folder in "${folders[@]}"; do
            [[ -x $folder/python$version ]] && probe "$folder/python$version" "$version" && return
        done
    done
    die "no Python of ${versions[*]} found in PATH, /usr/bin, /usr/local/bin or pyenv's versions; install one," \
        "on Debian 12 with: apt-get install python3 python3-venv"
}

# Debian keeps ensurepip in a package of its own.
need_ensurepip() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
    if [[ $python != /usr/bin/* || $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        die "$python cannot make a virtual environment: its module ensurepip is missing; install it," \
            "on Debian with: apt-get install $package"
    fi
    say "installing $package, as ensurepip is missing"
    DEBIAN_FRONTEND=noninteractive apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$package" >/dev/null
}

# The lines of the lock that pin uv, hashes included: the one package that pip itself installs.
uv_pin() { awk '/^uv==/ {found = 1} found {print} found && !/\\$/ {exit}' "$lock"; }

make_new() {
    local python
    python=$(find_python)
    need_ensurepip "$python"
    say "making .venv with $("$python" --version) ($python)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

install_lock() {
    local pin=$venv/uv-pin.txt pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)
    say "installing what $lock pins; some 90 MB to fetch when nothing is cached"
    uv_pin >"$pin"
    if [[ ! -x $venv/bin/uv ]]; then
        "${pip[@]}" install --quiet --require-hashes -r "$pin" || say "uv cannot be had here"
    fi
    # uv keeps its own settings for an index or a proxy, so what pip can reach may be out of its reach
    if ! { [[ -x $venv/bin/uv ]] &&
        "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes "$lock"; }; then
        say "uv did not do it; the same with pip, which takes half a minute"
        [[ -x $venv/bin/pip ]] || "$venv/bin/python" -m ensurepip >/dev/null
        "${pip[@]}" install --quiet --no-compile --require-hashes -r "$lock"
    fi
}

link_collection
current && exit 0

exec 9>"$root/.venv.lock"
flock --nonblock 9 || {
    say "waiting for another run that is making .venv"
    flock 9
}
current && exit 0

started=$SECONDS
if made; then
    say "$lock has changed; bringing .venv up to it"
    rm -f "$stamp"
else
    make_new
fi
install_lock
printf '%s\n%s\n' "$venv" "$(lock_hash)" >"$stamp"
version=$("$venv/bin/ansible" --version)
say "ready in $((SECONDS - started)) s: ${version%%$'\n'*}"
