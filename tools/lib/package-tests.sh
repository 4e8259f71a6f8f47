# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Runs tests in clean roots of Debian's releases in which the packages have been installed as the README
# tells a user to. Needs root. Reports go to $reports.

# shellcheck source=tools/lib/package.sh
. "$(dirname "${BASH_SOURCE[0]}")/package.sh"

# What the tests run with, beside what the packages bring.
root_test_packages=(binutils ibverbs-utils python3-pytest python3-pytest-timeout python3-pytest-xdist
    libvirt-daemon-system libvirt-clients qemu-utils)

# Where a QEMU comes from that runs on the release, and for which its package has no module.
declare -A other_qemu_suites=([12]=bookworm [13]=trixie-backports)

# readme_commands RELEASE: how its users install the packages, a command a line. They follow the paragraph
# that begins with the release.
readme_commands() {
    awk -v release="$1" '/^#/ { section = $0 } /^[^ ]/ && after_blank { here = index($0, "On Debian " release) == 1 }
        { after_blank = $0 == "" }
        section == "## Packages" && here && /^    / { sub(/^ +/, ""); print; found = 1 }
        END { exit !found }' "$top/README.md"
}

# prepare_parts FOLDER: what the tests need and no package has: the QEMU with the device built in, our
# programs for guests, the switch, and for each release a QEMU that there is no module for.
prepare_parts() {
    local parts=$1 core_build release
    need_packages "${test_packages[@]}"
    with_lock qemu build_qemu
    with_lock guest build_guest
    with_lock qemu build_core tests/client/rdma-verify tests/tools/frame-switch
    core_build=$(build_folder core)
    mkdir -p "$parts"
    run_logged payload mksquashfs "$core_build/tests/client/rdma-verify" "$parts/payload.squashfs" -noappend
    copy_libraries "$parts/lib" "$core_build/tests/tools/frame-switch" "$qemu_binary"
    cp "$core_build/tests/tools/frame-switch" "$qemu_binary" "$parts/"
    # shellcheck disable=SC2016 # it is the script's
    printf '#!/bin/sh\nLD_LIBRARY_PATH=/parts/lib exec /parts/frame-switch "$@"\n' >"$parts/switch"
    chmod +x "$parts/switch"
    refresh_private_apt other_qemu
    for release in "${!other_qemu_suites[@]}"; do
        mkdir "$parts/other-$release"
        (
            cd "$parts/other-$release"
            run_logged other-qemu private_apt other_qemu apt-get download "qemu-system-x86/${other_qemu_suites[$release]}"
            dpkg-deb -x qemu-system-x86_*.deb .
        )
    done
}

other_qemu_sources() {
    local mirror
    mirror=$(debian_mirror) || return
    printf "deb ${mirror//%/%%} %s main\n" "${other_qemu_suites[@]}"
}

# root_pytest NAME ARGUMENT...: in the root.
root_pytest() {
    local name=$1 status=0 plugin=/usr/lib/x86_64-linux-gnu/qemu/qemu-rdma.so
    shift
    in_packages_root env -C /tree PYTHONDONTWRITEBYTECODE=1 QEMU_RDMA_QEMU="$qemu_command" \
        QEMU_RDMA_PLUGIN=$plugin QEMU_RDMA_OTHER_QEMU="/parts/other-$release/usr/bin/qemu-system-x86_64" \
        QEMU_RDMA_BUILT_IN="env LD_LIBRARY_PATH=/parts/lib /parts/qemu-system-x86_64 ${qemu_firmware[*]}" \
        RDMA_GUEST_IMAGE=/guest RDMA_GUEST_PAYLOAD=/parts/payload.squashfs RDMA_SWITCH=/parts/switch \
        RDMA_QEMU_BUILD=/usr/bin RDMA_QEMU_FIRMWARE="-plugin $plugin" \
        timeout --signal=INT --kill-after=60 3000 python3 -m pytest -p no:cacheprovider --tb=short -v \
        --timeout=1200 --timeout-method=signal --junitxml="/reports/$name.xml" "$@" || status=$?
    printf '%s\n' "$status" >"$reports/$name.status"
}

in_packages_root() {
    in_root "$root" --bind "$packages" /packages --bind "$parts" /parts --bind "$reports" /reports \
        --bind "$guest_dir" /guest "$@"
}

# install_packages RELEASE: in a clean $root, as the README says.
install_packages() {
    local release=$1 command
    say "installing the packages in a clean Debian $release"
    release_sources "$release" | make_root "${suites[$release]}" "$root"
    printf 'APT::Get::Assume-Yes "true";\n' >"$root/etc/apt/apt.conf.d/assume-yes"
    copy_tree "$root/tree"
    readme_commands "$release" | while read -r command; do
        say "Debian $release: $command"
        run_logged "installed-$release" in_packages_root env -C /packages bash -c "$command"
    done || die "README.md does not install the packages on Debian $release"
    run_logged "installed-$release" in_packages_root \
        apt-get install --no-install-recommends "${root_test_packages[@]}"
}

# run_package_tests [RELEASE...]: 12 and 13 unless told.
run_package_tests() {
    local release root parts=$cache/package/parts packages=$cache/package/packages
    [ $# -gt 0 ] || set -- 12 13
    rm -rf "$packages" "$parts"
    prepare_parts "$parts"
    for release in "$@"; do
        root=$cache/package/installed-$release
        if "$top/tools/package" "$packages" "$release" && (install_packages "$release"); then
            test_installed "$release"
        else
            printf 'built or installed badly\n' >"$reports/package-$release.status"
        fi
        rm -rf "$root"
    done
}

# test_installed RELEASE: the tests, in $root. The last takes the packages away.
test_installed() {
    local release=$1 qemu_command=''
    root_pytest "package-$release" /tree/tests/package/test_installed.py
    # Without a module there is nothing to run.
    ! compgen -G "$root/usr/lib/x86_64-linux-gnu/qemu/qemu-rdma-*.so" >/dev/null || test_module "$release"
    root_pytest "purged-$release" /tree/tests/package/test_purged.py
}

# test_module RELEASE: the devices in the release's own QEMU.
test_module() {
    local release=$1 system=/tree/tests/system
    qemu_command=/usr/bin/qemu-system-x86_64 root_pytest "module-$release" /tree/tests/module
    local qemu_command="/usr/bin/qemu-system-x86_64 -plugin /usr/lib/x86_64-linux-gnu/qemu/qemu-rdma.so"
    root_pytest "between-$release" /tree/tests/package/test_built_in.py
    root_pytest "system-$release" --rootdir=$system --numprocesses="$jobs" --dist=loadgroup -k "not rxe" \
        -m "not nightly" $system/test_programs.py $system/test_migration.py $system/test_libvirt.py
}
