/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HW_RDMA_TYPES_H
#define HW_RDMA_TYPES_H

/* Registers all types of ours with QEMU. Once, before any device is made. */
void rdma_register_types(void);

#endif
