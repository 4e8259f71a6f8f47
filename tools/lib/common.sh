# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What every tool here needs: the cache folder, progress on stderr, packages of
# the distribution. Source it; it sets shell options.

set -euo pipefail

# The top of the source tree.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Downloads and builds, keyed by version; may be emptied at any time.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qemu-rdma
# Debian's Python, whatever comes first in PATH.
python=/usr/bin/python3
jobs=$(nproc)

mkdir -p "$cache/log" "$cache/lock"

# say WORDS...: one line of progress.
say() { printf '[%3ds] %s\n' "$SECONDS" "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# show_help TOOL: prints the comment at its top.
show_help() { sed -n '3,/^$/s/^#[[:blank:]]\{0,1\}//p' "$1"; }

# run_logged NAME COMMAND...: runs quietly, shows the log's end on failure.
run_logged() {
    local name=$1 log=$cache/log/$1.log
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "$name failed; the whole log is in $log"
    fi
}

# with_lock NAME COMMAND...: no two runs of the same step at once.
with_lock() {
    local name=$1
    shift
    exec 9>"$cache/lock/$name"
    flock 9
    "$@"
    exec 9>&-
}

# fingerprint FILE...: one word for the names and contents of files and folders of
# the source tree, wherever it lies.
fingerprint() {
    (
        cd "$top"
        find "${@#"$top/"}" -name __pycache__ -prune -o -type f -print0 | sort -z |
            xargs -0 sha256sum | sha256sum | cut -c1-16
    )
}

# need_packages PACKAGE...: installs the ones that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep '^install ok' >/dev/null ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    say "installing ${#missing[@]} packages: ${missing[*]}"
    run_logged apt-update "${sudo[@]}" apt-get update
    run_logged apt-install "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${missing[@]}"
}

# The address of the Debian mirror this machine uses.
debian_mirror() {
    {
        grep -rhoP '^\s*URIs:\s*\K\S+' /etc/apt/sources.list.d/ || true
        grep -rhoP '^\s*deb\s+(\[[^]]*\]\s+)?\K\S+' /etc/apt/sources.list /etc/apt/sources.list.d/ \
            2>/dev/null || true
    } | grep -E '/debian/?$' | awk 'NR == 1'
}

# private_apt TOOL ARGUMENTS...: apt-get or apt-cache with trixie and
# bookworm-backports beside nothing else; the system's configuration is left as
# it is.
private_apt() {
    local tool=$1 dir=$cache/apt
    shift
    if [ ! -e "$dir/complete" ]; then
        local mirror
        mirror=$(debian_mirror)
        [ -n "$mirror" ] || die "no Debian mirror in /etc/apt"
        mkdir -p "$dir/lists/partial" "$dir/archives/partial"
        printf 'deb %s trixie main\ndeb-src %s trixie main\ndeb %s bookworm-backports main\n' \
            "$mirror" "$mirror" "$mirror" >"$dir/sources.list"
        : >"$dir/status"
        run_logged private-apt-update apt-get "${private_apt_options[@]}" update
        touch "$dir/complete"
    fi
    "$tool" "${private_apt_options[@]}" "$@"
}
private_apt_options=(
    -o "Dir::Etc::sourcelist=$cache/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$cache/apt/lists" -o "Dir::State::status=$cache/apt/status"
    -o "Dir::Cache=$cache/apt" -o APT::Sandbox::User=root
)
