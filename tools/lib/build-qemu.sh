# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds QEMU 10.0 from Debian's source package with our devices in it.
# build_qemu sets qemu_binary and qemu_firmware. Of three kinds, by qemu_kind:
# empty, as it is used; "sanitize" (set QEMU_RDMA_SANITIZE), QEMU and core under
# ASan and UBSan; "fuzz", QEMU's own device fuzzer with both of them.

# shellcheck source=tools/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

qemu_series=10.0
host_packages=(
    build-essential bzip2 ca-certificates dpkg-dev flex bison git ninja-build pkg-config
    python3 python3-venv
    libfdt-dev libglib2.0-dev libpixman-1-dev libslirp-dev zlib1g-dev libattr1-dev libcap-ng-dev
    libisal-dev libfmt-dev libibverbs-dev libibumad-dev libseccomp-dev
    seabios ipxe-qemu qemu-system-data
)

clang_packages=(clang-19 llvm-19 libclang-rt-19-dev)

qemu_kind=${QEMU_RDMA_SANITIZE:+sanitize}

# Where QEMU and Meson come from, on Debian 12 and 13.
qemu_sources() {
    local mirror
    mirror=$(debian_mirror) || return
    printf '%s trixie main\n' "deb $mirror" "deb-src $mirror"
    printf 'deb %s bookworm-backports main\n' "$mirror"
}

# A Meson that QEMU accepts, from a package of a later suite, not installed.
build_meson() {
    meson_dir=$cache/meson
    if [ ! -e "$meson_dir/complete" ]; then
        say "fetching Meson"
        rm -rf "$meson_dir"
        mkdir -p "$meson_dir/deb"
        (
            cd "$meson_dir/deb"
            run_logged meson-download private_apt qemu apt-get download meson/bookworm-backports \
                python3-pycotap
            for deb in ./*.deb; do dpkg-deb -x "$deb" "$meson_dir"; done
        )
        touch "$meson_dir/complete"
    fi
    export PYTHONPATH=$meson_dir/usr/lib/python3/dist-packages
    meson=("$python" "$meson_dir/usr/bin/meson")
}

# build_folder KIND: where this tree is built in this way.
build_folder() { printf '%s\n' "$cache/build/$1-$(printf %s "$top" | sha256sum | cut -c1-8)"; }

# setup_build NAME FOLDER OPTION...: has Meson set up a build folder, anew where the
# options, their defaults or the compiler have changed: Meson itself keeps the old ones.
# With QEMU_RDMA_WERROR=1 warnings are errors.
setup_build() {
    local name=$1 folder=$2 key
    shift 2
    [ -z "${QEMU_RDMA_WERROR:-}" ] || set -- --werror "$@"
    key="$(fingerprint meson_options.txt) $(sed '/^$/q' "$top/meson.build" | sha256sum) ${CC:-} ${CXX:-} $*"
    [ ! -e "$folder/build.ninja" ] || [ "$(cat "$folder/set-up-with" 2>/dev/null)" != "$key" ] || return 0
    rm -rf "$folder"
    run_logged "$name-setup" "${meson[@]}" setup "$@" "$folder" "$top"
    printf '%s\n' "$key" >"$folder/set-up-with"
}

# build_core [TARGET...]: the C++ core as a static library, and further targets that are linked
# with it; sets core_build. In a folder of its own for each tree.
build_core() {
    build_meson
    core_build=$(build_folder core)${qemu_kind:+-$qemu_kind}
    local options=(--buildtype=release -Ddebug=true -Dtools=disabled) tests=false
    # tests/backend's suite for guests is linked with this core, where there is a GoogleTest.
    [ -n "$qemu_kind" ] || ! is_installed libgtest-dev || ! is_installed libcli11-dev || tests=true
    options+=("-Dtests=$tests")
    case $qemu_kind in
    sanitize | fuzz) options+=(-Db_sanitize=address,undefined -Db_lundef=false) ;;
    esac
    # vptr: its run-time part is C++, and QEMU is linked as C.
    [ "$qemu_kind" != fuzz ] || options+=(-Dfuzz=yes -Dcpp_args=-fno-sanitize=vptr)
    compiler setup_build core "$core_build" "${options[@]}"
    run_logged core-build ninja -C "$core_build" libqemu-rdma-core.a "$@"
}

# compiler COMMAND...: with the compiler that this kind is built with.
compiler() {
    if [ "$qemu_kind" = fuzz ]; then
        with_clang "$@"
    else
        "$@"
    fi
}

with_clang() { CC=clang-19 CXX=clang++-19 "$@"; }

unpack_qemu() {
    local version
    version=$(private_apt qemu apt-cache showsrc qemu |
        awk -v series="1:$qemu_series." '$1 == "Version:" && index($2, series) == 1 { print $2 }' |
        sort -V | tail -n 1)
    [ -n "$version" ] || die "the suites have no QEMU $qemu_series source"
    local patches=$top/hw/qemu
    qemu_source=$cache/qemu/${version//[:~+]/_}-$(fingerprint "$patches"/*.patch)
    [ ! -e "$qemu_source/complete" ] || return 0
    say "fetching the source of QEMU $version"
    rm -rf "$qemu_source"
    mkdir -p "$qemu_source/download"
    (
        cd "$qemu_source/download"
        run_logged qemu-download private_apt qemu apt-get source --download-only "qemu=$version"
        tar -xf qemu_*.orig.tar.xz -C "$qemu_source" --strip-components=1
        rm -f qemu_*
    )
    # Debian's tarball leaves the EDK2 images out, which the build only unpacks;
    # we boot with SeaBIOS.
    local image
    for image in $(grep -o 'edk2-[a-z0-9_-]*\.fd' "$qemu_source/pc-bios/meson.build"); do
        bzip2 </dev/null >"$qemu_source/pc-bios/$image.bz2"
    done
    local patch
    for patch in "$patches"/*.patch; do
        patch -d "$qemu_source" -p1 --quiet <"$patch"
    done
    touch "$qemu_source/complete"
}

# hw/rdma of QEMU's tree is ours: copies, each of which is as old as its contents.
# Links would do for one tree; the files of another one may be older than what is
# built, and ninja would not build them.
copy_glue() {
    local target=$qemu_source/hw/rdma file
    [ ! -L "$target/ours" ] || rm "$target/ours"
    mkdir -p "$target/ours"
    ln -sfn ours/hw/qemu/Kconfig "$target/Kconfig"
    ln -sfn ours/hw/qemu/meson.build "$target/meson.build"
    while read -r file; do
        cmp -s "$top/$file" "$target/ours/$file" ||
            install -D -m 644 "$top/$file" "$target/ours/$file"
    done < <(cd "$top" && find core backend hw guest-driver/include -type f)
    while read -r file; do
        [ -e "$top/$file" ] || rm "$target/ours/$file"
    done < <(cd "$target/ours" && find . -type f -printf '%P\n')
}

# QEMU is linked again where the archive has changed: its build does not know of it.
copy_core() {
    cmp -s "$core_build/libqemu-rdma-core.a" "$qemu_build/libqemu-rdma-core.a" || {
        rm -f "$qemu_build"/qemu-{system,fuzz}-x86_64
        cp "$core_build/libqemu-rdma-core.a" "$qemu_build/"
    }
}

# Anew where the options have changed.
configure_qemu() {
    local options=(
        --target-list=x86_64-softmmu --without-default-features --python="$python"
        --enable-system --enable-tcg --enable-kvm --enable-slirp --enable-vhost-kernel
        --enable-vhost-net --enable-vhost-user --enable-virtfs --enable-attr --enable-cap-ng --enable-pixman
        --enable-seccomp
        --enable-tools --enable-fdt=system --disable-download --disable-install-blobs --disable-docs --disable-werror
    )
    case $qemu_kind in
    sanitize | fuzz) options+=(--enable-asan --enable-ubsan) ;;
    esac
    [ "$qemu_kind" != fuzz ] || options+=(--enable-fuzzing)
    [ "$(cat "$qemu_build/options" 2>/dev/null)" != "${options[*]}" ] || return 0
    say "configuring QEMU"
    rm -rf "$qemu_build"
    mkdir -p "$qemu_build"
    (cd "$qemu_build" && compiler run_logged qemu-configure "$qemu_source/configure" "${options[@]}")
    printf '%s\n' "${options[*]}" >"$qemu_build/options"
}

# One word for all that goes into QEMU: the tree and the host's packages.
qemu_inputs() {
    printf '%s %s\n' "$(build_inputs)" "$(dpkg-query -W "${host_packages[@]}" 2>/dev/null)" | sha256sum | cut -c1-16
}

build_qemu() {
    # A run that would change nothing ends here.
    local stamp=$cache/build/qemu-stamp${qemu_kind:+-$qemu_kind} inputs built=
    inputs=$(qemu_inputs)
    if [ -e "$stamp" ] && read -r built qemu_binary <"$stamp" &&
        [ "$built" = "$inputs" ] && [ -x "$qemu_binary" ]; then
        return 0
    fi
    rm -f "$stamp"
    need_packages "${host_packages[@]}"
    [ "$qemu_kind" != fuzz ] || need_packages "${clang_packages[@]}"
    inputs=$(qemu_inputs)
    build_core
    unpack_qemu
    qemu_build=$qemu_source/build${qemu_kind:+-$qemu_kind}
    copy_glue
    configure_qemu
    copy_core
    say "building QEMU (about 4 minutes the first time on 2 cores, longer with sanitizers)"
    local targets=(qemu-system-x86_64 qemu-img)
    [ "$qemu_kind" != fuzz ] || targets=(qemu-fuzz-x86_64)
    run_logged qemu-build ninja -C "$qemu_build" "${targets[@]}"
    qemu_binary=$qemu_build/${targets[0]}
    printf '%s %s\n' "$inputs" "$qemu_binary" >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "QEMU is built"
}
qemu_firmware=(-L /usr/share/seabios -L /usr/lib/ipxe/qemu -L /usr/share/qemu)
