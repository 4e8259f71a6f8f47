# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Runs tools in a clean Debian 13, whose compiler is GCC 14, from empty caches as a user's
# first commands run. Warnings are errors there. Needs root. Reports go to $reports.

# shellcheck source=tools/lib/debian-root.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian-root.sh"

# run_debian13 [TOOL WITH ITS ARGUMENTS]...: "test unit" and "demo" unless told.
run_debian13() {
    local steps=("$@") root=$cache/debian13 step name status failure
    [ $# -gt 0 ] || steps=("test unit" demo)
    say "making a clean Debian 13"
    suite_sources trixie | make_root trixie "$root"
    copy_tree "$root/root/tree"
    for step in "${steps[@]}"; do
        say "tools/$step in Debian 13"
        name=${step//[^a-z]/-} status=0 failure=
        in_root "$root" env -C /root/tree QEMU_RDMA_WERROR=1 bash -c "tools/$step" || status=$?
        [ "$status" = 0 ] || failure='<failure message="see its output"/>'
        printf '<testsuite><testcase classname="debian13" name="%s">%s</testcase></testsuite>\n' \
            "$name" "$failure" >"$reports/debian13-$name.xml"
        printf '%s\n' "$status" >"$reports/debian13-$name.status"
    done
    rm -rf "$root"
}
