// SPDX-License-Identifier: GPL-2.0-or-later
//
// A port of one of the host's RDMA devices, through umad.
#pragma once

#include <string>

#include "server.h"
#include "umad_port.h"

namespace rdma::mux {

class UmadSharedPort final : public SharedPort {
public:
    // Throws std::runtime_error: what is wrong, and what to do.
    UmadSharedPort(const std::string& device, uint8_t port);

    int fd() const override { return _umad.fd(); }
    bool send(const verbs::Mad& mad, ClientId client) override
    {
        return _umad.send_for(mad, client);
    }
    bool receive(verbs::Mad& mad) override { return _umad.receive(mad); }
    void forget(ClientId client) override { _umad.forget(client); }
    bool is_gone() const override { return _umad.is_gone(); }
    bool has_gid(uint8_t index, const ibv_gid& gid) const override;

private:
    verbs::UmadPort _umad;
    std::string _gids; // the folder of the port's GID table in sysfs
};

} // namespace rdma::mux
