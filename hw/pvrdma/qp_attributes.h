// SPDX-License-Identifier: GPL-2.0-or-later
//
// QP attributes: from the guest's layout to libibverbs' and back.
#pragma once

#include "backend.h"
#include "pvrdma_abi.h"

namespace rdma::pvrdma {

// Fills in the attributes that mask (ibv_qp_attr_mask) names; what the others
// hold means nothing, for a driver may leave there what it likes. False where a
// named one is out of its enumeration's range.
[[nodiscard]] bool decode_qp_attributes(const QpAttr& in, int mask, ibv_qp_attr& out, Mac& dmac);

QpAttr encode_qp_attributes(const ibv_qp_attr& in, const Mac& dmac);

} // namespace rdma::pvrdma
