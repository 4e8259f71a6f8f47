/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtio RDMA device behind its transport: virtqueues, configuration and features
 * (docs/virtio-rdma). All else of QEMU is in hw/common/qemu, the device itself in the C++
 * core (virtio_rdma.h of the folder above).
 */
#ifndef HW_VIRTIO_RDMA_VDEV_H
#define HW_VIRTIO_RDMA_VDEV_H

#include "hw/virtio/virtio.h"
#include "hw/common/qemu/rdma_core.h"
#include "hw/virtio-rdma/virtio_rdma.h"

#define TYPE_VIRTIO_RDMA "virtio-rdma-device"
OBJECT_DECLARE_SIMPLE_TYPE(VirtioRdma, VIRTIO_RDMA)

typedef struct VirtioRdmaCommand VirtioRdmaCommand;

struct VirtioRdma {
    VirtIODevice parent_obj;

    RdmaCore core;
    VirtioRdmaConfig config;
    MemoryRegion doorbells; /* for a BAR of the transport; owned by it */

    /* Commands whose reply comes later, in the order in which they came. */
    QTAILQ_HEAD(, VirtioRdmaCommand) deferred;
    uint64_t last_tag;
    /* Bit n: virtqueue n is being served; what comes meanwhile is to be looked at again. */
    uint32_t serving;
    uint32_t serve_again;
};

extern const TypeInfo virtio_rdma_type;

/* The transport's type. */
void virtio_rdma_register_pci(void);

#endif
