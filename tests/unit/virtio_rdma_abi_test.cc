// SPDX-License-Identifier: GPL-2.0-or-later
//
// Layouts of the virtio RDMA device, by hand from the rule that each field stands at a multiple
// of its size and nothing is between fields; and the values that the driver's or the provider's
// code would have to translate if they were others.
#include "virtio_rdma_abi.h"

#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <bit>
#include <cstddef>

#define SIZE(type, bytes) static_assert(sizeof(type) == (bytes))
#define AT(type, member, bytes) static_assert(offsetof(type, member) == (bytes))

SIZE(virtio_rdma_config, 12);
AT(virtio_rdma_config, mac, 0);
AT(virtio_rdma_config, status, 6);
AT(virtio_rdma_config, num_completion_queues, 8);

SIZE(virtio_rdma_request, 8);
AT(virtio_rdma_request, command, 0);
AT(virtio_rdma_request, object, 4);

SIZE(virtio_rdma_reply, 8);
AT(virtio_rdma_reply, status, 0);
AT(virtio_rdma_reply, object, 4);

SIZE(virtio_rdma_limits, 96);
AT(virtio_rdma_limits, reply, 0);
AT(virtio_rdma_limits, node_guid, 8);
AT(virtio_rdma_limits, max_mr_size, 16);
AT(virtio_rdma_limits, page_sizes, 24);
AT(virtio_rdma_limits, max_pd, 32);
AT(virtio_rdma_limits, max_mr, 36);
AT(virtio_rdma_limits, max_mr_pages, 40);
AT(virtio_rdma_limits, max_fast_registration_pages, 44);
AT(virtio_rdma_limits, max_pages, 48);
AT(virtio_rdma_limits, max_cq, 52);
AT(virtio_rdma_limits, max_cq_entries, 56);
AT(virtio_rdma_limits, max_srq, 60);
AT(virtio_rdma_limits, max_srq_entries, 64);
AT(virtio_rdma_limits, max_qp, 68);
AT(virtio_rdma_limits, max_sq_entries, 72);
AT(virtio_rdma_limits, max_rq_entries, 76);
AT(virtio_rdma_limits, max_message_size, 80);
AT(virtio_rdma_limits, max_sges, 84);
AT(virtio_rdma_limits, max_inline, 86);
AT(virtio_rdma_limits, max_dest_rd_atomic, 88);
AT(virtio_rdma_limits, max_rd_atomic, 90);
AT(virtio_rdma_limits, num_gids, 92);
AT(virtio_rdma_limits, max_mtu, 94);
AT(virtio_rdma_limits, ack_delay, 95);

SIZE(virtio_rdma_counters, 8 + 10 * 8);
AT(virtio_rdma_counters, reply, 0);
AT(virtio_rdma_counters, counters, 8);

SIZE(virtio_rdma_create_mr, 32);
AT(virtio_rdma_create_mr, request, 0);
AT(virtio_rdma_create_mr, type, 8);
AT(virtio_rdma_create_mr, page_shift, 9);
AT(virtio_rdma_create_mr, reserved, 10);
AT(virtio_rdma_create_mr, access, 12);
AT(virtio_rdma_create_mr, iova, 16);
AT(virtio_rdma_create_mr, length, 24);

SIZE(virtio_rdma_create_mr_reply, 16);
AT(virtio_rdma_create_mr_reply, reply, 0);
AT(virtio_rdma_create_mr_reply, lkey, 8);
AT(virtio_rdma_create_mr_reply, rkey, 12);

SIZE(virtio_rdma_create_cq, 24);
AT(virtio_rdma_create_cq, request, 0);
AT(virtio_rdma_create_cq, entries, 8);
AT(virtio_rdma_create_cq, reserved, 12);
AT(virtio_rdma_create_cq, state, 16);

SIZE(virtio_rdma_create_srq, 24);
AT(virtio_rdma_create_srq, request, 0);
AT(virtio_rdma_create_srq, context, 8);
AT(virtio_rdma_create_srq, entries, 12);
AT(virtio_rdma_create_srq, entry_size, 14);
AT(virtio_rdma_create_srq, state, 16);

SIZE(virtio_rdma_arm_srq, 16);
AT(virtio_rdma_arm_srq, request, 0);
AT(virtio_rdma_arm_srq, limit, 8);
AT(virtio_rdma_arm_srq, reserved, 12);

SIZE(virtio_rdma_query_srq_reply, 16);
AT(virtio_rdma_query_srq_reply, reply, 0);
AT(virtio_rdma_query_srq_reply, limit, 8);
AT(virtio_rdma_query_srq_reply, reserved, 12);

SIZE(virtio_rdma_create_qp, 56);
AT(virtio_rdma_create_qp, request, 0);
AT(virtio_rdma_create_qp, context, 8);
AT(virtio_rdma_create_qp, type, 12);
AT(virtio_rdma_create_qp, flags, 13);
AT(virtio_rdma_create_qp, reserved, 14);
AT(virtio_rdma_create_qp, send_cq, 16);
AT(virtio_rdma_create_qp, recv_cq, 20);
AT(virtio_rdma_create_qp, srq, 24);
AT(virtio_rdma_create_qp, sq_entries, 28);
AT(virtio_rdma_create_qp, sq_entry_size, 30);
AT(virtio_rdma_create_qp, rq_entries, 32);
AT(virtio_rdma_create_qp, rq_entry_size, 34);
AT(virtio_rdma_create_qp, reserved2, 36);
AT(virtio_rdma_create_qp, sq_state, 40);
AT(virtio_rdma_create_qp, rq_state, 48);

SIZE(virtio_rdma_av, 32);
AT(virtio_rdma_av, dgid, 0);
AT(virtio_rdma_av, flow_label, 16);
AT(virtio_rdma_av, sgid_index, 20);
AT(virtio_rdma_av, hop_limit, 22);
AT(virtio_rdma_av, traffic_class, 23);
AT(virtio_rdma_av, dmac, 24);
AT(virtio_rdma_av, sl, 30);
AT(virtio_rdma_av, reserved, 31);

SIZE(virtio_rdma_qp_attributes, 68);
AT(virtio_rdma_qp_attributes, mask, 0);
AT(virtio_rdma_qp_attributes, state, 4);
AT(virtio_rdma_qp_attributes, current_state, 5);
AT(virtio_rdma_qp_attributes, path_mtu, 6);
AT(virtio_rdma_qp_attributes, max_rd_atomic, 7);
AT(virtio_rdma_qp_attributes, max_dest_rd_atomic, 8);
AT(virtio_rdma_qp_attributes, min_rnr_timer, 9);
AT(virtio_rdma_qp_attributes, timeout, 10);
AT(virtio_rdma_qp_attributes, retry_count, 11);
AT(virtio_rdma_qp_attributes, rnr_retry, 12);
AT(virtio_rdma_qp_attributes, sqd_event, 13);
AT(virtio_rdma_qp_attributes, sq_draining, 14);
AT(virtio_rdma_qp_attributes, reserved, 15);
AT(virtio_rdma_qp_attributes, access, 16);
AT(virtio_rdma_qp_attributes, qkey, 20);
AT(virtio_rdma_qp_attributes, rq_psn, 24);
AT(virtio_rdma_qp_attributes, sq_psn, 28);
AT(virtio_rdma_qp_attributes, dest_qpn, 32);
AT(virtio_rdma_qp_attributes, av, 36);

SIZE(virtio_rdma_modify_qp, 76);
AT(virtio_rdma_modify_qp, request, 0);
AT(virtio_rdma_modify_qp, attributes, 8);

SIZE(virtio_rdma_query_qp_reply, 76);
AT(virtio_rdma_query_qp_reply, reply, 0);
AT(virtio_rdma_query_qp_reply, attributes, 8);

SIZE(virtio_rdma_add_gid, 32);
AT(virtio_rdma_add_gid, request, 0);
AT(virtio_rdma_add_gid, gid, 8);
AT(virtio_rdma_add_gid, mac, 24);
AT(virtio_rdma_add_gid, vlan, 30);

// The driver's and the device's halves are cache lines of their own.
SIZE(virtio_rdma_queue_state, 128);
AT(virtio_rdma_queue_state, producer, 0);
AT(virtio_rdma_queue_state, reserved, 4);
AT(virtio_rdma_queue_state, consumer, 64);
AT(virtio_rdma_queue_state, doorbell, 68);
AT(virtio_rdma_queue_state, reserved2, 72);

SIZE(virtio_rdma_cq_state, 128);
AT(virtio_rdma_cq_state, consumer, 0);
AT(virtio_rdma_cq_state, arm, 4);
AT(virtio_rdma_cq_state, reserved, 8);
AT(virtio_rdma_cq_state, notified, 64);
AT(virtio_rdma_cq_state, reserved2, 68);

SIZE(virtio_rdma_sge, 16);
AT(virtio_rdma_sge, addr, 0);
AT(virtio_rdma_sge, length, 8);
AT(virtio_rdma_sge, lkey, 12);

SIZE(virtio_rdma_sq_entry, 16);
AT(virtio_rdma_sq_entry, wr_id, 0);
AT(virtio_rdma_sq_entry, opcode, 8);
AT(virtio_rdma_sq_entry, flags, 9);
AT(virtio_rdma_sq_entry, count, 10);
AT(virtio_rdma_sq_entry, imm_data, 12);
AT(virtio_rdma_sq_entry, key, 12);

SIZE(virtio_rdma_sq_rdma, 32);
AT(virtio_rdma_sq_rdma, entry, 0);
AT(virtio_rdma_sq_rdma, remote_addr, 16);
AT(virtio_rdma_sq_rdma, rkey, 24);
AT(virtio_rdma_sq_rdma, reserved, 28);

SIZE(virtio_rdma_sq_atomic, 48);
AT(virtio_rdma_sq_atomic, entry, 0);
AT(virtio_rdma_sq_atomic, remote_addr, 16);
AT(virtio_rdma_sq_atomic, compare_add, 24);
AT(virtio_rdma_sq_atomic, swap, 32);
AT(virtio_rdma_sq_atomic, rkey, 40);
AT(virtio_rdma_sq_atomic, reserved, 44);

SIZE(virtio_rdma_sq_datagram, 56);
AT(virtio_rdma_sq_datagram, entry, 0);
AT(virtio_rdma_sq_datagram, qpn, 16);
AT(virtio_rdma_sq_datagram, qkey, 20);
AT(virtio_rdma_sq_datagram, av, 24);

SIZE(virtio_rdma_sq_registration, 48);
AT(virtio_rdma_sq_registration, entry, 0);
AT(virtio_rdma_sq_registration, iova, 16);
AT(virtio_rdma_sq_registration, length, 24);
AT(virtio_rdma_sq_registration, pages, 32);
AT(virtio_rdma_sq_registration, key, 40);
AT(virtio_rdma_sq_registration, access, 44);
AT(virtio_rdma_sq_registration, page_shift, 46);
AT(virtio_rdma_sq_registration, reserved, 47);

SIZE(virtio_rdma_rq_entry, 16);
AT(virtio_rdma_rq_entry, wr_id, 0);
AT(virtio_rdma_rq_entry, count, 8);
AT(virtio_rdma_rq_entry, reserved, 10);

SIZE(virtio_rdma_cq_entry, 64);
AT(virtio_rdma_cq_entry, wr_id, 0);
AT(virtio_rdma_cq_entry, qpn, 8);
AT(virtio_rdma_cq_entry, byte_len, 12);
AT(virtio_rdma_cq_entry, imm_data, 16);
AT(virtio_rdma_cq_entry, key, 16);
AT(virtio_rdma_cq_entry, vendor_err, 20);
AT(virtio_rdma_cq_entry, timestamp, 24);
AT(virtio_rdma_cq_entry, src_qpn, 32);
AT(virtio_rdma_cq_entry, smac, 36);
AT(virtio_rdma_cq_entry, vlan, 42);
AT(virtio_rdma_cq_entry, network, 44);
AT(virtio_rdma_cq_entry, sl, 45);
AT(virtio_rdma_cq_entry, reserved, 46);
AT(virtio_rdma_cq_entry, opcode, 60);
AT(virtio_rdma_cq_entry, flags, 61);
AT(virtio_rdma_cq_entry, status, 62);
AT(virtio_rdma_cq_entry, phase, 63);

SIZE(virtio_rdma_event, 8);
AT(virtio_rdma_event, type, 0);
AT(virtio_rdma_event, object, 4);

SIZE(virtio_rdma_completion_event, 4);
AT(virtio_rdma_completion_event, cq, 0);

#define SAME(ours, theirs)                                                                         \
    static_assert(static_cast<uint32_t>(ours) == static_cast<uint32_t>(theirs))

// What is passed on as it is.
SAME(VIRTIO_RDMA_QP_RESET, IBV_QPS_RESET);
SAME(VIRTIO_RDMA_QP_INIT, IBV_QPS_INIT);
SAME(VIRTIO_RDMA_QP_RTR, IBV_QPS_RTR);
SAME(VIRTIO_RDMA_QP_RTS, IBV_QPS_RTS);
SAME(VIRTIO_RDMA_QP_SQD, IBV_QPS_SQD);
SAME(VIRTIO_RDMA_QP_SQE, IBV_QPS_SQE);
SAME(VIRTIO_RDMA_QP_ERR, IBV_QPS_ERR);
SAME(VIRTIO_RDMA_MTU_256, IBV_MTU_256);
SAME(VIRTIO_RDMA_MTU_4096, IBV_MTU_4096);
SAME(VIRTIO_RDMA_LOCAL_WRITE, IBV_ACCESS_LOCAL_WRITE);
SAME(VIRTIO_RDMA_REMOTE_WRITE, IBV_ACCESS_REMOTE_WRITE);
SAME(VIRTIO_RDMA_REMOTE_READ, IBV_ACCESS_REMOTE_READ);
SAME(VIRTIO_RDMA_REMOTE_ATOMIC, IBV_ACCESS_REMOTE_ATOMIC);
SAME(VIRTIO_RDMA_SEND_FENCE, IBV_SEND_FENCE);
SAME(VIRTIO_RDMA_SEND_SIGNALED, IBV_SEND_SIGNALED);
SAME(VIRTIO_RDMA_SEND_SOLICITED, IBV_SEND_SOLICITED);
SAME(VIRTIO_RDMA_SEND_INLINE, IBV_SEND_INLINE);
SAME(VIRTIO_RDMA_OP_WRITE, IBV_WR_RDMA_WRITE);
SAME(VIRTIO_RDMA_OP_WRITE_IMM, IBV_WR_RDMA_WRITE_WITH_IMM);
SAME(VIRTIO_RDMA_OP_SEND, IBV_WR_SEND);
SAME(VIRTIO_RDMA_OP_SEND_IMM, IBV_WR_SEND_WITH_IMM);
SAME(VIRTIO_RDMA_OP_READ, IBV_WR_RDMA_READ);
SAME(VIRTIO_RDMA_OP_CMP_SWAP, IBV_WR_ATOMIC_CMP_AND_SWP);
SAME(VIRTIO_RDMA_OP_FETCH_ADD, IBV_WR_ATOMIC_FETCH_AND_ADD);
SAME(VIRTIO_RDMA_OP_LOCAL_INV, IBV_WR_LOCAL_INV);
SAME(VIRTIO_RDMA_OP_BIND_MW, IBV_WR_BIND_MW);
SAME(VIRTIO_RDMA_OP_SEND_INV, IBV_WR_SEND_WITH_INV);

// The kind of queue has the upper bits, the number the lower 24.
static_assert(VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_SQ, 0xffffff) == 0x00ffffff);
static_assert(VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_RQ, 1) == 0x40000001);
static_assert(VIRTIO_RDMA_DOORBELL(VIRTIO_RDMA_DOORBELL_SRQ, 2) == 0x80000002);

// A state is in one page, and an entry, too.
static_assert(VIRTIO_RDMA_STATE_ALIGNMENT == sizeof(virtio_rdma_queue_state) &&
              VIRTIO_RDMA_STATE_ALIGNMENT == sizeof(virtio_rdma_cq_state) &&
              VIRTIO_RDMA_PAGE_SIZE % VIRTIO_RDMA_STATE_ALIGNMENT == 0);
static_assert(std::has_single_bit(sizeof(virtio_rdma_cq_entry)));
