# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds what the test guests boot, all of it from one suite of Debian, whatever the host is:
# a 6.12 kernel, an initramfs, a root file system with the RDMA tools, vmw_pvrdma and
# virtio_rdma built for that kernel, and virtio_rdma's provider for the suite's rdma-core.
# build_guest sets guest_dir, which holds vmlinuz, initramfs and root.squashfs.

# shellcheck source=tools/lib/rdma-core.sh
. "$(dirname "${BASH_SOURCE[0]}")/rdma-core.sh"

guest_suite=bookworm
guest_build_packages=(mmdebstrap squashfs-tools cpio kmod xz-utils zstd busybox-static
    build-essential dpkg-dev debian-archive-keyring "${provider_packages[@]}")
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

# guest_sources [FOLDER]: the guest's suite and its updates, from the machine's own mirrors.
guest_sources() { suite_sources "$guest_suite" "$@"; }

# The newest 6.12 kernel of which image, headers and source are to be had.
find_kernel() {
    local release version package
    for release in $(private_apt guest apt-cache pkgnames linux-image-6.12. |
        sed -nE 's/^linux-image-(6\.12\.[0-9]+\+deb[0-9]+-amd64)$/\1/p' | sort -rV); do
        version=$(private_apt guest apt-cache policy "linux-image-$release" |
            awk '/Candidate:/ { print $2 }')
        for package in "linux-headers-$release" linux-source-6.12; do
            private_apt guest apt-cache show "$package=$version" >/dev/null 2>&1 || continue 2
        done
        kernel_release=$release
        kernel_version=$version
        return 0
    done
    die "no 6.12 kernel with headers and source in $guest_suite and its updates"
}

# unpack_packages FOLDER PACKAGE=VERSION...
unpack_packages() {
    local folder=$1 package
    shift
    mkdir -p "$folder" "$folder.deb"
    (
        cd "$folder.deb"
        run_logged guest-download private_apt guest apt-get download "$@"
        for package in ./*.deb; do dpkg-deb -x "$package" "$folder"; done
    )
    rm -rf "$folder.deb"
}

# install_modules PACKAGE ROOT: those of an unpacked kernel package, which has them in lib or,
# from Debian 13 on, usr/lib. The root is merged: its /lib is /usr/lib.
install_modules() {
    local folder
    for folder in "$1"/lib "$1"/usr/lib; do
        [ ! -d "$folder/modules" ] || cp -a "$folder/modules" "$2/usr/lib/"
    done
    [ -d "$2/usr/lib/modules" ] || die "no modules in the kernel package"
}

# build_drivers WORK: sets drivers to the modules.
build_drivers() {
    local work=$1
    say "building vmw_pvrdma and virtio_rdma for $kernel_release"
    local headers=$work/headers version=${kernel_release%-amd64}
    unpack_packages "$headers" \
        linux-source-6.12="$kernel_version" linux-kbuild-"$version"="$kernel_version" \
        linux-headers-{"$kernel_release","$version-common"}="$kernel_version"
    tar -xf "$headers/usr/src/linux-source-6.12.tar.xz" -C "$work" --strip-components=1 \
        linux-source-6.12/drivers/infiniband/hw/vmw_pvrdma "${guest_tree[@]/#/linux-source-6.12/}"
    # The headers are not where they would be installed, and the host has another compiler
    # and no BTF tools of the suite.
    sed -i "s|/usr/src/|$headers/usr/src/|" "$headers/usr/src/linux-headers-$kernel_release/Makefile"
    run_logged vmw-pvrdma-build make -C "$top/guest-driver/vmw_pvrdma" CC=gcc CONFIG_DEBUG_INFO_BTF_MODULES= \
        SOURCE="$work/drivers/infiniband/hw/vmw_pvrdma" OUT="$work/vmw_pvrdma" \
        KERNEL="$headers/usr/src/linux-headers-$kernel_release"
    mkdir "$work/virtio_rdma"
    cp -r "$top"/guest-driver/{linux,include} "$work/virtio_rdma/"
    run_logged virtio-rdma-build make -C "$work/virtio_rdma/linux" CC=gcc CONFIG_DEBUG_INFO_BTF_MODULES= \
        KDIR="$headers/usr/src/linux-headers-$kernel_release" modules
    drivers=("$work/vmw_pvrdma/vmw_pvrdma.ko" "$work/virtio_rdma/linux/virtio_rdma.ko")
}

# build_provider WORK: installs it in the guest's root.
build_provider() {
    local work=$1 provider
    local folder=$work/root/usr/lib/x86_64-linux-gnu/libibverbs
    say "building virtio_rdma's provider for rdma-core"
    fetch_rdma_core "$guest_suite" "$work/rdma-core"
    run_logged provider-build make -C "$top/guest-driver/provider" SOURCE="$work/rdma-core/source" \
        OUT="$work/provider"
    provider=$(basename "$work"/provider/libvirtio_rdma-rdmav*.so)
    [ -e "$folder/${provider/virtio_rdma/rxe}" ] ||
        die "the guest's libibverbs takes no provider of that version: $provider"
    cp "$work/provider/$provider" "$folder/"
    cp "$work/provider/virtio_rdma.driver" "$work/root/etc/libibverbs.d/"
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

# Sets guest_dir; succeeds where that guest is made, of the newest kernel that is known.
find_guest() {
    local inputs
    find_kernel
    inputs=$(fingerprint "$top"/tools/guest "$top"/tools/lib/{build-guest,rdma-core}.sh \
        "$top"/guest-driver)
    guest_dir=$cache/guest/$kernel_version-$inputs
    [ -e "$guest_dir/complete" ]
}

build_guest() {
    need_packages "${guest_build_packages[@]}"
    ! find_guest || return 0
    refresh_private_apt guest
    ! find_guest || return 0
    local work=$guest_dir.work
    rm -rf "$work" "$guest_dir"
    mkdir -p "$work"
    say "making the guest's root file system (about a minute)"
    guest_sources >"$work/sources.list"
    run_logged mmdebstrap mmdebstrap --mode=root --variant=minbase --format=directory \
        --include="$(IFS=,; echo "${guest_packages[*]}")" \
        "$guest_suite" "$work/root" "$work/sources.list"
    say "adding kernel $kernel_release"
    unpack_packages "$work/kernel" "linux-image-$kernel_release=$kernel_version"
    install_modules "$work/kernel" "$work/root"
    cp "$work/kernel/boot/vmlinuz-$kernel_release" "$work/vmlinuz"
    build_drivers "$work"
    mkdir -p "$work/root/usr/lib/modules/$kernel_release/updates"
    cp "${drivers[@]}" "$work/root/usr/lib/modules/$kernel_release/updates/"
    depmod -b "$work/root" "$kernel_release"
    build_provider "$work"
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
