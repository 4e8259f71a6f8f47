# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The source of rdma-core, in which virtio_rdma's provider is built.

# shellcheck source=tools/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What guest-driver/provider is built with, beside a compiler.
# shellcheck disable=SC2034 # for who sources this
provider_packages=(cmake ninja-build pkg-config libnl-3-dev libnl-route-3-dev)

# Source packages of Debian's suites.
bookworm_rdma_core_sources() { suite_sources bookworm | sed 's/^deb /deb-src /'; }
trixie_rdma_core_sources() { suite_sources trixie | sed 's/^deb /deb-src /'; }

# fetch_rdma_core SUITE FOLDER: unpacks the upstream source in FOLDER/source. That of the suite itself, or,
# where the mirrors have it no more, that of the next release: libibverbs' interface to providers has a number
# (it is in their files' names), and the suite's must be the same.
fetch_rdma_core() {
    local source sources=(trixie_rdma_core) log=$cache/log/rdma-core-download.log
    [ "$1" = trixie ] || sources=("$1_rdma_core" "${sources[@]}")
    mkdir -p "$2/source" "$cache/log"
    : >"$log"
    for source in "${sources[@]}"; do
        if (cd "$2" && private_apt "$source" apt-get source --download-only --tar-only rdma-core) >>"$log" 2>&1; then
            tar -C "$2/source" --strip-components=1 -xf "$2"/rdma-core_*.orig.tar.*
            return
        fi
    done
    die "no source of rdma-core can be had: see $log"
}
