// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management on a port of the host, through umad: what the
// guest's GSI QP sends and receives.
#pragma once

#include <infiniband/umad.h>
#include <infiniband/verbs.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

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

class MadPort {
public:
    // Throws std::runtime_error: what is wrong, and what to do.
    MadPort(const std::string& device, uint8_t port);
    ~MadPort();
    MadPort(const MadPort&) = delete;
    MadPort& operator=(const MadPort&) = delete;

    // Polls readable when receive() has something.
    int fd() const { return umad_get_fd(_port); }
    // False: it cannot be sent (the destination is not reached, or the host's queue
    // is full). Looking up the destination may take the host a while.
    bool send(const Mad& mad);
    // False: there is none.
    bool receive(Mad& mad);

private:
    int _port = -1;
    int _agent = -1;
    std::unique_ptr<std::byte[]> _buffer; // a header of umad's and a MAD
};

} // namespace rdma::verbs
