// SPDX-License-Identifier: GPL-2.0-or-later
//
// A stand-in for libibverbs and the RDMA devices of a host, within the process. A test
// that links it sees the devices of the StandInHost that exists, and no others. Devices
// have one port each, on one network: a QP reaches the QP of any device by its GID and
// number.
//
// Devices may have a GID in common, as two hosts have it one after the other.
//
// Requests are carried out at once, in the call that posts them or that makes them
// possible. A request that waits for a receive request waits for ever, as with
// rnr_retry 7. What has no destination is not acknowledged: it waits, too.
//
// Numbers and keys are the lowest that are free on the device, so that devices give out
// the same ones, and a number that has been given back comes again.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rdma::test {

// ::ffff:a.b.c.d, or the IPv6 address.
ibv_gid gid_of(const char* address);

// One at a time.
class StandInHost {
public:
    StandInHost();
    ~StandInHost();
    StandInHost(const StandInHost&) = delete;
    StandInHost& operator=(const StandInHost&) = delete;

    // A device whose port has these GIDs, all of RoCEv2, from index 0 on.
    void add_device(const std::string& name, std::vector<ibv_gid> gids);

    // The state of the QP with this number; IBV_QPS_UNKNOWN: there is none.
    ibv_qp_state qp_state(const std::string& device, uint32_t qpn) const;
    // A WRITE by a peer of that QP that is no device of this host. False: it is not
    // acknowledged, for the QP does not take it, or its PD has no such region.
    bool write_from_outside(const std::string& device, uint32_t qpn, uint32_t rkey, uint64_t iova,
                            std::span<const std::byte> bytes);
    // Regions that are registered on a device.
    size_t num_regions(const std::string& device) const;
};

} // namespace rdma::test
