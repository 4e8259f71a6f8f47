// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management on a port of the host: what the guest's GSI QP
// sends and receives. There are two ways for them: umad (umad_port.h), and a daemon
// that shares umad among many (mux_port.h).
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rdma::verbs {

inline constexpr size_t mad_size = 256; // bytes, IBTA vol. 1, 13.4.2

// A management datagram, and where it goes or comes from.
struct Mad {
    std::array<std::byte, mad_size> bytes{};
    ibv_gid peer{};
    uint8_t gid_index = 0; // our GID: of the host's table
    uint32_t peer_qpn = 1;
    uint32_t flow_label = 0;
    uint8_t hop_limit = 64;
    uint8_t traffic_class = 0;
    uint8_t sl = 0;
};

// One of the guest's addresses, as the host has it.
struct OwnAddress {
    uint8_t slot = 0;      // in the guest's GID table
    uint8_t gid_index = 0; // in the host's
    bool shared = false;   // others may have the host's GID, too
    ibv_gid host_gid{};
    ibv_gid guest_gid{};

    bool operator==(const OwnAddress& other) const;
};

class MadPort {
public:
    virtual ~MadPort() = default;

    // Polls readable when receive() has something to do. It stays the same.
    virtual int fd() const = 0;
    // Never waits. False: it is lost, as on a network (there is no way just now, or
    // the queue is full). True: it is on its way, and can still be lost.
    virtual bool send(const Mad& mad) = 0;
    // False: there is none.
    virtual bool receive(Mad& mad) = 0;
    // The host's device is gone: fd() polls readable for ever, and there is nothing.
    virtual bool is_gone() const { return false; }
    // All addresses that messages go out from and come for.
    virtual void set_addresses(const std::vector<OwnAddress>&) {}
};

} // namespace rdma::verbs
