# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds the packages for a release of Debian in a root of it. Needs root.

# shellcheck source=tools/lib/debian-root.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian-root.sh"
# shellcheck source=tools/lib/rdma-core.sh
. "$(dirname "${BASH_SOURCE[0]}")/rdma-core.sh"

declare -A suites=([12]=bookworm [13]=trixie)
# Where the QEMU comes from that the release's package has a module for: Debian 12's own is too old.
declare -A qemu_suites=([12]=bookworm-backports [13]=trixie)

# What the packages are built with, beside QEMU's own build dependencies.
package_packages=(build-essential debhelper dh-dkms lintian linux-source man-db meson ninja-build pkgconf python3
    libcli11-dev libfmt-dev libglib2.0-dev libibumad-dev libibverbs-dev libisal-dev libpixman-1-dev nlohmann-json3-dev
    "${provider_packages[@]}")

# release_sources RELEASE: apt's, with the sources of QEMU.
release_sources() {
    local suite=${suites[$1]} qemu=${qemu_suites[$1]} sources mirror
    sources=$(suite_sources "$suite") && mirror=$(debian_mirror) || return
    [ "$qemu" = "$suite" ] || sources+=$'\n'"deb $mirror $qemu main"
    printf '%s\n' "$sources"
    sed 's/^deb /deb-src /' <<<"$sources"
}

# build_packages RELEASE FOLDER: leaves the packages in the folder.
build_packages() {
    local release=$1 out=$2 folder=$cache/package/$1 key
    key=$(release_sources "$release"; printf '%s\n' "${package_packages[@]}")
    mkdir -p "$folder/build" "$out"
    if [ "$(cat "$folder/root-is" 2>/dev/null)" != "$key" ]; then
        say "making a root of Debian $release"
        rm -f "$folder/root-is"
        release_sources "$release" | make_root "${suites[$release]}" "$folder/root" "${package_packages[@]}"
        printf '%s\n' "$key" >"$folder/root-is"
    fi
    rm -rf "$folder/root/tree"
    copy_tree "$folder/root/tree"
    in_root "$folder/root" --bind "$folder/build" /build --bind "$(realpath "$out")" /out \
        env XDG_CACHE_HOME=/build/cache /tree/tools/lib/package-in-root "$release" "${suites[$release]}" \
        "${qemu_suites[$release]}" /out || die "there are no packages for Debian $release; the logs are in" \
        "$folder/build/cache/qemu-rdma/log"
}
