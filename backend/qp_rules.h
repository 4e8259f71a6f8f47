// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which changes of a queue pair's state and attributes are allowed (IBTA vol.
// 1, 10.3.1 and 11.2.5.2, tables 91 and 92).
#pragma once

#include "backend.h"

namespace rdma {

// 0, or EINVAL where the transition is not legal, a required attribute is
// missing or one is given that may not be.
int check_transition(ibv_qp_type type, bool gsi, ibv_qp_state from, ibv_qp_state to, int mask);

// Whether there is such a transition, with any attributes.
bool has_transition(ibv_qp_type type, ibv_qp_state from, ibv_qp_state to);

// 0, or EINVAL where a QP cannot be made so: its type or what it is to hold.
int check_init(const QpInit& init, const Limits& limits);

// 0, or EINVAL where a value is out of range. limits bounds rd_atomic and GIDs;
// port_mtu is the largest path MTU that the port has just now.
int check_attributes(const ibv_qp_attr& attr, int mask, const Limits& limits, ibv_mtu port_mtu);

// Copies the attributes that mask names. qp_state is left alone.
void merge_attributes(ibv_qp_attr& to, const ibv_qp_attr& from, int mask);

} // namespace rdma
