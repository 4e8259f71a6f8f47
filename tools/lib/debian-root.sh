# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Roots of Debian's releases, to build and to run in. All of it needs root.

# shellcheck source=tools/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# make_root SUITE ROOT [PACKAGE...] <SOURCES: a clean Debian with these packages and what in_root() and
# Debian itself need. SOURCES, apt's, are those of the root, too.
make_root() {
    local suite=$1 root=$2
    shift 2
    need_packages mmdebstrap debian-archive-keyring
    rm -rf "$root"
    # What has not reached the disk when the machine ends is no loss.
    run_logged "root-$suite" mmdebstrap --mode=root --variant=minbase --format=directory \
        --dpkgopt=force-unsafe-io --include="$(IFS=,; set -- mount "$@"; echo "$*")" "$suite" "$root" -
    cp /etc/hosts "$root/etc/"
}

# in_root ROOT [--bind FOLDER PLACE]... COMMAND...: with folders of this machine in places within the
# root. What the command mounts and starts ends with it. No chroot(2): in one, Linux makes no user
# namespaces, which libvirt's tests have.
in_root() {
    local root=$1 script='mount --bind "$root" "$root"; mount -t proc proc "$root/proc"'
    script+='; mount -t sysfs -o ro sysfs "$root/sys"; mount --rbind /dev "$root/dev"'
    shift
    while [ "$1" = --bind ]; do
        mkdir -p "$root$3"
        script+="; mount --bind ${2@Q} \"\$root\"${3@Q}"
        shift 3
    done
    # The shell stays, as process 1, to take note of the end of daemons, for which libvirt waits.
    script+='; cd "$root"; pivot_root . .; umount -l .; status=0; "$@" || status=$?; exit $status'
    root=$root unshare --mount --pid --fork --kill-child bash -ec "$script" in_root \
        /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        "$@" </dev/null
}

# copy_tree FOLDER: the source tree as it is, without Git's folder.
copy_tree() {
    mkdir -p "$1"
    tar -C "$top" --exclude=.git -cf - . | tar -xf - -C "$1"
}
