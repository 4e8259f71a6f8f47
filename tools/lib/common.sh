# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What every tool here needs: the cache folder, progress on stderr, packages of
# the distribution. Source it; it sets shell options.

set -Eeuo pipefail
trap 'report_end $? "${BASH_SOURCE[0]}:$LINENO" "$BASH_COMMAND"' ERR

# report_end STATUS PLACE COMMAND: no script ends without a word. Within $(...) a failure ends
# nothing; what does is the command around it.
report_end() {
    [[ $- != *e* ]] || printf 'error: %s: status %d of: %s\n' "$2" "$1" "$3" >&2
}

# The top of the source tree.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Downloads and builds, keyed by version; may be emptied at any time.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qemu-rdma
# Debian's Python, whatever comes first in PATH.
python=/usr/bin/python3
jobs=$(nproc)

# say WORDS...: one line of progress.
say() { printf '[%3ds] %s\n' "$SECONDS" "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# show_help TOOL: prints the comment at its top.
show_help() { sed -n '3,/^$/s/^#[[:blank:]]\{0,1\}//p' "$1"; }

# run_logged NAME COMMAND...: runs quietly, in a shell of its own, shows the log's end on
# failure.
run_logged() {
    local name=$1 log=$cache/log/$1.log
    shift
    mkdir -p "$cache/log"
    if ! ("$@") >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "$name failed; the whole log is in $log"
    fi
}

# with_lock NAME COMMAND...: no two runs of the same step at once.
with_lock() {
    local name=$1
    shift
    mkdir -p "$cache/lock"
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

# build_inputs: one word for everything of the tree but what is known not to go into builds.
build_inputs() {
    local trees
    mapfile -t trees < <(find "$top" -mindepth 1 -maxdepth 1 -not \( -name .git -o -name docs -o -name tests \))
    fingerprint "${trees[@]}"
}

is_installed() { dpkg-query -W -f='${Status}\n' "$1" 2>/dev/null | grep '^install ok' >/dev/null; }

# need_packages PACKAGE...: installs the ones that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    say "installing ${#missing[@]} packages: ${missing[*]}"
    run_logged apt-update "${sudo[@]}" apt-get update
    run_logged apt-install "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${missing[@]}"
}

# apt_sources [FOLDER]: what apt gets packages from by its configuration in FOLDER
# (/etc/apt), "URI SUITE COMPONENT" a line. Of both formats (sources.list(5)), in apt's order.
apt_sources() {
    local folder=${1:-/etc/apt} file
    for file in "$folder"/sources.list "$folder"/sources.list.d/*; do
        [ -f "$file" ] || continue
        case $file in
        *.list)
            awk '{ sub(/#.*/, ""); sub(/\[[^]]*\]/, "") }
                $1 == "deb" { for (i = 4; i <= NF; ++i) print $2, $3, $i }' "$file"
            ;;
        *.sources)
            awk 'function end_of_entry(    u, s, c, i, j, k, uris, suites, components) {
                    u = split(field["uris"], uris)
                    s = split(field["suites"], suites)
                    c = split(field["components"], components)
                    if ((" " field["types"] " ") ~ /[ \t]deb[ \t]/ &&
                        tolower(field["enabled"]) !~ /^[ \t]*(no|false|without|off|disable)[ \t]*$/)
                        for (i = 1; i <= u; ++i)
                            for (j = 1; j <= s; ++j)
                                for (k = 1; k <= c; ++k) print uris[i], suites[j], components[k]
                    split("", field)
                }
                /^#/ { next }
                /^[ \t]*$/ { end_of_entry(); next }
                /^[^ \t]/ { name = tolower($0); sub(/[ \t]*:.*/, "", name); sub(/^[^:]*:/, "") }
                { field[name] = field[name] " " $0 }
                END { end_of_entry() }' "$file"
            ;;
        esac
    done
}

# debian_mirror [FOLDER]: the address of the Debian mirror this machine uses, whichever of
# Debian's suites it takes from there.
debian_mirror() {
    local mirror
    mirror=$(apt_sources "$@" |
        awk '!found && $3 == "main" && $1 ~ /\/debian(\.list)?\/?$/ { found = 1; print $1 }')
    [ -n "$mirror" ] || die "no Debian mirror (.../debian, with main) in ${1:-/etc/apt}"
    printf '%s\n' "$mirror"
}

# security_mirror [FOLDER]: the same for Debian's security suites. Where the machine has none,
# they are expected beside the others.
security_mirror() {
    local security mirror
    security=$(apt_sources "$@" |
        awk '!found && $3 == "main" && $2 ~ /^[a-z]+-security$/ { found = 1; print $1 }')
    if [ -z "$security" ]; then
        mirror=$(debian_mirror "$@") || return
        security=${mirror%/}
        case $security in
        *.list) security=${security%.list}-security.list ;;
        *) security+=-security ;;
        esac
    fi
    printf '%s\n' "$security"
}

# suite_sources SUITE [FOLDER]: apt's sources of one of Debian's releases with its updates, from this
# machine's own mirrors.
suite_sources() {
    local suite=$1 mirror security
    shift
    mirror=$(debian_mirror "$@") && security=$(security_mirror "$@") || return
    printf 'deb %s main\n' "$mirror $suite" "$mirror $suite-updates" "$security $suite-security"
}

# private_apt NAME TOOL ARGUMENTS...: apt-get or apt-cache with the sources that the function
# NAME_sources prints, and no others, no pins and no default release of the system's; its
# configuration is left as it is.
private_apt() {
    local name=$1 tool=$2 dir=$cache/apt-$1 sources
    shift 2
    local options=(
        -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
        -o APT::Default-Release= -o Acquire::Languages=none -o APT::Sandbox::User=root
        -o "Dir::State::lists=$dir/lists" -o "Dir::State::status=$dir/status" -o "Dir::Cache=$dir"
    )
    sources=$("${name}_sources") || return
    if [ "$(cat "$dir/complete" 2>/dev/null)" != "$sources" ]; then
        mkdir -p "$dir/lists/partial" "$dir/archives/partial"
        printf '%s\n' "$sources" >"$dir/sources.list"
        : >"$dir/status"
        run_logged "$name-apt-update" apt-get "${options[@]}" --error-on=any update
        printf '%s\n' "$sources" >"$dir/complete"
    fi
    "$tool" "${options[@]}" "$@"
}

# refresh_private_apt NAME: its lists are fetched again, unless they are of this hour. To be
# called before a download, since mirrors drop what has been replaced.
refresh_private_apt() {
    [ ! -d "$cache/apt-$1" ] || find "$cache/apt-$1" -maxdepth 1 -name complete -mmin +60 -delete
}
