// SPDX-License-Identifier: GPL-2.0-or-later
//
// Attributes of queue pairs: from the guest's layout to libibverbs' and back.
#pragma once

#include "entries.h"

namespace rdma::virtio {

// What a device's attributes may be at most.
struct AttributeLimits {
    uint8_t max_mtu = 0; // virtio_rdma_mtu
    uint32_t max_rd_atomic = 0;
    uint32_t max_dest_rd_atomic = 0;
    uint64_t features = 0; // negotiated
};

// The attributes that the mask names; others are not looked at. mask: ibv_qp_attr_mask. False: a
// bit of the mask is not known, or one of them is out of range.
[[nodiscard]] bool decode_attributes(const virtio_rdma_qp_attributes& in,
                                     const AttributeLimits& limits, ibv_qp_attr& attr, int& mask,
                                     Mac& dmac);

// All attributes.
virtio_rdma_qp_attributes encode_attributes(const ibv_qp_attr& attr, const Mac& dmac);

} // namespace rdma::virtio
