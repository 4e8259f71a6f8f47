// SPDX-License-Identifier: GPL-2.0-or-later
//
// Entries of queues in memory: from the guest's layout to the backend's requests, and from the
// backend's completions to the guest's layout. Each byte of an entry is copied once, and only
// the copy is looked at.
#pragma once

#include "backend.h"
#include "guest_memory.h"
#include "virtio_rdma_abi.h"

namespace rdma::virtio {

// What the entries of a queue are judged by.
struct EntryLimits {
    uint32_t entry_size = 0; // bytes
    uint32_t max_sges = 0;   // of the device
    uint32_t max_inline = 0; // bytes, of the device
    uint64_t features = 0;   // negotiated, VIRTIO_RDMA_F_* by their bits
    bool datagram = false;   // of a UD or GSI queue pair
    bool privileged = false; // of context 0: may name memory by address (QUE-23)
};

// Smallest entries, bytes.
inline constexpr uint32_t least_send_entry = 64;
inline constexpr uint32_t least_receive_entry = 32;

// SGEs that an entry of a receive queue has room for.
constexpr uint32_t receive_sges(uint32_t entry_size)
{
    return static_cast<uint32_t>((entry_size - sizeof(virtio_rdma_rq_entry)) /
                                 sizeof(virtio_rdma_sge));
}

// SGEs that an entry of a send queue has room for, at most.
constexpr uint32_t send_sges(uint32_t entry_size)
{
    return static_cast<uint32_t>((entry_size - sizeof(virtio_rdma_sq_entry)) /
                                 sizeof(virtio_rdma_sge));
}

// Decodes the entry at address. What cannot be carried out is marked malformed; its wr_id and
// flags hold, and it has no SGEs. False: the entry is not memory.
[[nodiscard]] bool read_send_entry(const GuestMemory& memory, uint64_t address,
                                   const EntryLimits& limits, SendRequest& out);
[[nodiscard]] bool read_receive_entry(const GuestMemory& memory, uint64_t address,
                                      const EntryLimits& limits, RecvRequest& out);

// All but the phase.
virtio_rdma_cq_entry encode_completion(const Completion& completion);

// An address vector. False: a field is out of range, or what is reserved is not 0.
[[nodiscard]] bool decode_address(const virtio_rdma_av& av, AddressVector& out);
virtio_rdma_av encode_address(const AddressVector& in);

// Rights in the guest's bits. False: one that is not known, or of a feature that has not been
// negotiated.
[[nodiscard]] bool decode_access(uint32_t access, uint64_t features, int& out);
uint32_t encode_access(unsigned access);
// REMOTE_WRITE and REMOTE_ATOMIC need LOCAL_WRITE (IBTA 10.6.3.1).
bool is_access_of_region(int access);

constexpr bool has_feature(uint64_t features, unsigned bit)
{
    return (features >> bit & 1) != 0;
}

} // namespace rdma::virtio
