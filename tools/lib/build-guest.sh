# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds what the test guests boot: a Debian 6.12 kernel, an initramfs, a root
# file system with the RDMA tools, and vmw_pvrdma built for that kernel.
# build_guest sets guest_dir, which holds vmlinuz, initramfs and root.squashfs.

# shellcheck source=tools/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

guest_suite=bookworm
guest_build_packages=(mmdebstrap squashfs-tools cpio kmod xz-utils zstd busybox-static
    build-essential dpkg-dev)
guest_packages=(
    bash coreutils procps kmod iproute2 iputils-ping ethtool tcpdump python3
    rdma-core ibverbs-providers ibverbs-utils rdmacm-utils perftest iperf3
    nfs-common nfs-kernel-server nvme-cli open-iscsi fio e2fsprogs kexec-tools
    ucx-utils libfabric-bin openmpi-bin python3-mpi4py
)
# Parts of the kernel's source that the guests have in /usr/src/linux: a tree of
# many small files.
guest_tree=(include net)
# What the initramfs needs to reach the root.
initramfs_modules=(virtio_pci virtio_iommu virtio_blk squashfs overlay)

# One-line sources for the guest's suite, from the machine's own addresses.
guest_sources() {
    local mirror security
    mirror=$(debian_mirror)
    security=$(grep -rhoP '(URIs:\s*|deb\s+(\[[^]]*\]\s+)?)\K\S+/debian-security/?' /etc/apt/ |
        awk 'NR == 1')
    printf 'deb %s %s main\n' "$mirror" "$guest_suite"
    [ -z "$security" ] || printf 'deb %s %s-security main\n' "$security" "$guest_suite"
}

# The newest 6.12 kernel of which image, headers and source are to be had.
find_kernel() {
    local release
    for release in $(apt-cache pkgnames linux-image-6.12. |
        grep -oP '^linux-image-\K6\.12\.\d+\+deb\d+-amd64$' | sort -rV); do
        if apt-cache policy "linux-headers-$release" | grep 'Candidate: 6\.12' >/dev/null; then
            kernel_release=$release
            kernel_version=$(apt-cache policy "linux-image-$release" |
                awk '/Candidate:/ { print $2 }')
            if apt-cache show "linux-source-6.12=$kernel_version" >/dev/null 2>&1; then
                return 0
            fi
        fi
    done
    die "no 6.12 kernel with headers and source in the package lists"
}

build_vmw_pvrdma() {
    local work=$1
    say "building vmw_pvrdma for $kernel_release"
    need_packages "linux-headers-$kernel_release"
    (
        cd "$work"
        run_logged kernel-source-download apt-get download "linux-source-6.12=$kernel_version"
        dpkg-deb --fsys-tarfile linux-source-6.12_*.deb |
            tar -xO ./usr/src/linux-source-6.12.tar.xz |
            tar -xJ --strip-components=1 linux-source-6.12/drivers/infiniband/hw/vmw_pvrdma \
                "${guest_tree[@]/#/linux-source-6.12/}"
        rm linux-source-6.12_*.deb
    )
    run_logged vmw-pvrdma-build make -C "$top/guest-driver/vmw_pvrdma" \
        SOURCE="$work/drivers/infiniband/hw/vmw_pvrdma" OUT="$work/vmw_pvrdma" \
        KERNEL="/lib/modules/$kernel_release/build"
}

build_initramfs() {
    local work=$1 modules=$1/root/lib/modules/$kernel_release module path
    local tree=$work/initramfs
    mkdir -p "$tree"/{bin,modules,dev}
    cp /bin/busybox "$tree/bin/"
    cp "$top/tools/guest/initramfs-init" "$tree/init"
    for module in "${initramfs_modules[@]}"; do
        modprobe -d "$work/root" -S "$kernel_release" --show-depends "$module" |
            awk '/^insmod/ { print $2 }'
    done | awk '!seen[$0]++' | while read -r path; do
        module=$(basename "$path" .xz)
        case $path in
        *.xz) xz -dc "$path" >"$tree/modules/$module" ;;
        *) cp "$path" "$tree/modules/$module" ;;
        esac
        echo "$module" >>"$tree/modules/order"
    done
    [ -s "$tree/modules/order" ] || die "no modules for the initramfs in $modules"
    (cd "$tree" && find . | cpio --quiet -o -H newc | zstd -q) >"$work/initramfs.img"
}

build_guest() {
    need_packages "${guest_build_packages[@]}"
    find_kernel
    local inputs
    inputs=$(fingerprint "$top"/tools/guest "$top"/tools/lib/build-guest.sh \
        "$top"/guest-driver/vmw_pvrdma)
    guest_dir=$cache/guest/$kernel_version-$inputs
    [ ! -e "$guest_dir/complete" ] || return 0
    local work=$guest_dir.work
    rm -rf "$work" "$guest_dir"
    mkdir -p "$work"
    say "making the guest's root file system (about a minute)"
    guest_sources >"$work/sources.list"
    run_logged mmdebstrap mmdebstrap --mode=root --variant=minbase --format=directory \
        --include="$(IFS=,; echo "${guest_packages[*]}")" \
        "$guest_suite" "$work/root" "$work/sources.list"
    say "adding kernel $kernel_release"
    (
        cd "$work"
        run_logged kernel-download apt-get download "linux-image-$kernel_release=$kernel_version"
        dpkg-deb -x linux-image-*.deb "$work/kernel"
    )
    # bookworm's root is merged: /lib is /usr/lib.
    cp -a "$work/kernel/lib/." "$work/root/usr/lib/"
    cp "$work/kernel/boot/vmlinuz-$kernel_release" "$work/vmlinuz"
    build_vmw_pvrdma "$work"
    mkdir -p "$work/root/usr/lib/modules/$kernel_release/updates"
    cp "$work/vmw_pvrdma/vmw_pvrdma.ko" "$work/root/usr/lib/modules/$kernel_release/updates/"
    depmod -b "$work/root" "$kernel_release"
    mkdir -p "$work/root/usr/src/linux"
    mv "${guest_tree[@]/#/$work/}" "$work/root/usr/src/linux/"
    cp "$top"/tools/guest/guest-{init,agent} "$work/root/usr/local/sbin/"
    build_initramfs "$work"
    # For a guest that starts its kernel again by kexec.
    cp "$work"/{vmlinuz,initramfs.img} "$work/root/boot/"
    rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists"
    run_logged mksquashfs mksquashfs "$work/root" "$work/root.squashfs" -comp zstd \
        -Xcompression-level 3 -noappend
    mkdir -p "$guest_dir"
    mv "$work"/{vmlinuz,initramfs.img,root.squashfs} "$guest_dir/"
    rm -rf "$work"
    touch "$guest_dir/complete"
    say "the guest is made"
}
