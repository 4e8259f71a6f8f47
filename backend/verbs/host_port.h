// SPDX-License-Identifier: GPL-2.0-or-later
//
// A port of one of the host's RDMA devices, opened by name. Once the device is gone
// and closed, it has no context, attributes of the port or GIDs.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "address_prefixes.h"
#include "backend.h"
#include "host_objects.h"
#include "rdma_backend.h"
#include "rdma_host.h"

namespace rdma::verbs {

class HostPort {
public:
    // Throws std::runtime_error with what is wrong and what there is instead.
    explicit HostPort(const RdmaHostPortConfig& config);

    // Closes the device, of which no object may be left.
    void close() { _context.reset(); }

    const HostContext& shared_context() const { return _context; }
    ibv_context* context() const { return _context.get(); }
    const std::string& device_name() const { return _device; }
    uint8_t number() const { return _number; }
    const ibv_device_attr& attributes() const { return _attributes; }
    // Whether MRs are registered for on-demand paging: nothing is pinned.
    bool on_demand_paging() const { return _on_demand_paging; }
    // The GID that all packets come from, in place of the guest's own.
    std::optional<uint32_t> fixed_gid() const { return _fixed_gid; }
    bool adds_addresses() const { return _adds_addresses; }
    // Whether the guest may use that address.
    bool allows(const ibv_gid& gid) const { return _allowed.empty() || _allowed.contains(gid); }
    // TCP's, for the control channel between devices; 0: none.
    uint16_t peer_port() const { return _peer_port; }
    // Whether QPs that cannot migrate go to the error state, and do not hold it up.
    bool loses_on_migrate() const { return _loses_on_migrate; }
    // The socket of the daemon for RDMA CM, "off", or nothing: see RdmaHostPortConfig.
    const std::string& cm_mux() const { return _cm_mux; }

    // The port as it is just now; nothing where the device is gone.
    std::optional<ibv_port_attr> query() const;
    // The index of a GID; type: 1 RoCEv1, 2 RoCEv2.
    std::optional<uint32_t> find_gid(const ibv_gid& gid, uint32_t type) const;
    std::optional<ibv_gid> gid(uint32_t index) const;
    // The host's network interface of the port (see if_nametoindex()); 0: not known.
    uint32_t interface_index() const;

private:
    std::vector<ibv_gid_entry> gid_table() const;
    void check_port(uint32_t number);
    void choose_paging(const RdmaHostPortConfig& config);

    AddressPrefixes _allowed; // none: all
    std::string _device;
    HostContext _context;
    ibv_device_attr _attributes{};
    uint8_t _number = 0;
    bool _on_demand_paging = false;
    std::optional<uint32_t> _fixed_gid;
    bool _adds_addresses = false;
    uint16_t _peer_port = 0;
    bool _loses_on_migrate = false;
    std::string _cm_mux;
};

} // namespace rdma::verbs
