/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a module says of the QEMU that it was built for: an ELF note, which the loader reads
 * before it opens the module. Owner RDMA_MODULE_OWNER, type RDMA_MODULE_NOTE.
 */
#ifndef HW_MODULE_NOTE_H
#define HW_MODULE_NOTE_H

#include <stdint.h>

#define RDMA_MODULE_OWNER "qemu-rdma" /* 10 bytes with its end */
#define RDMA_MODULE_NOTE 1
/* The module's one function, void (void): registers the types with QEMU. */
#define RDMA_MODULE_REGISTER qemu_rdma_register

/* The note's contents. Strings end with a NUL. */
struct RdmaModuleNote {
    uint32_t plugin_api;   /* QEMU_PLUGIN_VERSION: the newest plugin API of that QEMU */
    char build_id[2 * 32 + 1]; /* of its binary, in hexadecimal, lower case */
    char version[256 - 4 - 65]; /* as --version says it, "10.0.13 (Debian ...)" */
};

#endif
