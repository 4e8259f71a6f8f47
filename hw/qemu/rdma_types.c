/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qemu/module.h"
#include "hw/common/qemu/rdma_nic.h"
#include "hw/pvrdma/qemu/pvrdma_pci.h"
#include "hw/virtio-rdma/qemu/virtio_rdma_vdev.h"
#include "rdma_types.h"

void rdma_register_types(void)
{
    type_register_static(&filter_rdma_type);
    type_register_static(&pvrdma_type);
    type_register_static(&virtio_rdma_type);
    virtio_rdma_register_pci();
}

/* A module's loader calls it; QEMU has gone through its own list by then. */
#ifndef RDMA_MODULE
type_init(rdma_register_types)
#endif
