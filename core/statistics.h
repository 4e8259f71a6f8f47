// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a device tells of itself: counters, each of which only grows (reset of
// the device keeps them), and how many objects there are just now.
#pragma once

#include <cstdint>

namespace rdma {

// X(member, "name"): one line a counter, in the order they are shown.
#define RDMA_COUNTERS(X)                                                                           \
    /* Packets and bytes of Ethernet frames sent and received (loopback included). */              \
    X(tx_packets, "tx-packets")                                                                    \
    X(tx_bytes, "tx-bytes")                                                                        \
    X(rx_packets, "rx-packets")                                                                    \
    X(rx_bytes, "rx-bytes")                                                                        \
    X(loopback_packets, "loopback-packets")                                                        \
    /* Requester. */                                                                               \
    X(retransmitted_packets, "retransmitted-packets")                                              \
    X(timeouts, "timeouts")                                                                        \
    X(rnr_naks_received, "rnr-naks-received")                                                      \
    X(sequence_naks_received, "sequence-naks-received")                                            \
    X(error_naks_received, "error-naks-received")                                                  \
    X(implied_naks, "implied-naks")                                                                \
    X(retries_exceeded, "retries-exceeded")                                                        \
    /* Responder. */                                                                               \
    X(acks_sent, "acks-sent")                                                                      \
    X(rnr_naks_sent, "rnr-naks-sent")                                                              \
    X(sequence_naks_sent, "sequence-naks-sent")                                                    \
    X(error_naks_sent, "error-naks-sent")                                                          \
    X(duplicate_requests, "duplicate-requests")                                                    \
    X(out_of_sequence_requests, "out-of-sequence-requests")                                        \
    X(cnps_received, "cnps-received")                                                              \
    /* RNR NAKs sent while the VM was stopped, and waits that its start ended. */                  \
    X(stopped_rnr_naks_sent, "stopped-rnr-naks-sent")                                              \
    X(wakes_received, "wakes-received")                                                            \
    /* Packets dropped, by cause. */                                                               \
    X(drop_malformed, "drop-malformed")                                                            \
    X(drop_icrc, "drop-icrc")                                                                      \
    X(drop_vlan, "drop-vlan")                                                                      \
    X(drop_unknown_qp, "drop-unknown-qp")                                                          \
    X(drop_qp_state, "drop-qp-state")                                                              \
    X(drop_peer_mismatch, "drop-peer-mismatch")                                                    \
    X(drop_pkey, "drop-pkey")                                                                      \
    X(drop_qkey, "drop-qkey")                                                                      \
    X(drop_opcode, "drop-opcode")                                                                  \
    X(drop_sequence, "drop-sequence")                                                              \
    X(drop_no_receive, "drop-no-receive")                                                          \
    X(drop_length, "drop-length")                                                                  \
    X(drop_congestion, "drop-congestion")                                                          \
    X(drop_overload, "drop-overload")                                                              \
    X(drop_unreachable, "drop-unreachable")                                                        \
    X(drop_stopped, "drop-stopped")                                                                \
    /* Bad requests of the guest, by where they came in. */                                        \
    X(guest_register_errors, "guest-register-errors")                                              \
    X(guest_command_errors, "guest-command-errors")                                                \
    X(guest_doorbell_errors, "guest-doorbell-errors")                                              \
    X(guest_ring_errors, "guest-ring-errors")                                                      \
    X(guest_wqe_errors, "guest-wqe-errors")                                                        \
    /* Work of the device. */                                                                      \
    X(commands, "commands")                                                                        \
    X(completions, "completions")                                                                  \
    X(completion_errors, "completion-errors")                                                      \
    X(cq_overruns, "cq-overruns")                                                                  \
    X(async_events, "async-events")                                                                \
    X(async_events_lost, "async-events-lost")

struct Statistics {
#define X(member, name) uint64_t member = 0;
    RDMA_COUNTERS(X)
#undef X
};

// X(member, "name"): one line a kind of object, in the order they are shown.
#define RDMA_OBJECT_COUNTS(X)                                                                      \
    X(contexts, "contexts") /* of user processes */                                                \
    X(pds, "pds")                                                                                  \
    X(mrs, "mrs")                                                                                  \
    X(cqs, "cqs")                                                                                  \
    X(srqs, "srqs")                                                                                \
    X(qps, "qps")

struct ObjectCounts {
#define X(member, name) uint64_t member = 0;
    RDMA_OBJECT_COUNTS(X)
#undef X
};

} // namespace rdma
