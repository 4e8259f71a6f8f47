# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Runs tools in a clean Debian 13, whose compiler is GCC 14, from empty caches as a user's
# first commands run. Warnings are errors there. Needs root. Reports go to $reports.

# shellcheck source=tools/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

debian13_sources() {
    local mirror security
    mirror=$(debian_mirror) && security=$(security_mirror) || return
    printf 'deb %s main\n' "$mirror trixie" "$mirror trixie-updates" "$security trixie-security"
}

# run_debian13 [TOOL WITH ITS ARGUMENTS]...: "test unit" and "demo" unless told.
run_debian13() {
    local steps=("$@") root=$cache/debian13 step name status failure
    [ $# -gt 0 ] || steps=("test unit" demo)
    need_packages mmdebstrap debian-archive-keyring
    say "making a clean Debian 13"
    rm -rf "$root"
    debian13_sources | run_logged debian13 mmdebstrap --mode=root --variant=minbase --format=directory \
        trixie "$root" -
    cp /etc/hosts "$root/etc/"
    mkdir "$root/root/tree"
    tar -C "$top" --exclude=.git -cf - . | tar -xf - -C "$root/root/tree"
    for step in "${steps[@]}"; do
        say "tools/$step in Debian 13"
        name=${step//[^a-z]/-} status=0 failure=
        # What it mounts and starts ends with it.
        unshare --mount --pid --fork --kill-child --root="$root" --wd=/root/tree --mount-proc \
            env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 QEMU_RDMA_WERROR=1 \
            bash -c "tools/$step" </dev/null || status=$?
        [ "$status" = 0 ] || failure='<failure message="see its output"/>'
        printf '<testsuite><testcase classname="debian13" name="%s">%s</testcase></testsuite>\n' \
            "$name" "$failure" >"$reports/debian13-$name.xml"
        printf '%s\n' "$status" >"$reports/debian13-$name.status"
    done
    rm -rf "$root"
}
