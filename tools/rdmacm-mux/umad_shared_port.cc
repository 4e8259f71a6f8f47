// SPDX-License-Identifier: GPL-2.0-or-later
#include "umad_shared_port.h"

#include <arpa/inet.h>

#include <fstream>

#include <fmt/format.h>

#include "gid.h"

namespace rdma::mux {

namespace {

// A client whose destinations do not answer keeps two threads waiting, and there are two
// for each client. Those that have nothing to do end.
constexpr unsigned threads_per_client = 2;
constexpr verbs::MadSender::Sizes sizes{
    .threads = threads_per_client * static_cast<unsigned>(Server::max_clients),
    .threads_per_source = threads_per_client,
    .spare_threads = 4,
    .waiting_per_source = 64};

} // namespace

UmadSharedPort::UmadSharedPort(const std::string& device, uint8_t port)
    : _umad(device, port, sizes),
      _gids(fmt::format("/sys/class/infiniband/{}/ports/{}/gids/", device, port))
{
}

bool UmadSharedPort::has_gid(uint8_t index, const ibv_gid& gid) const
{
    // "0000:0000:0000:0000:0000:ffff:0a00:0001"
    std::string text;
    std::ifstream(_gids + std::to_string(index)) >> text;
    ibv_gid there{};
    return inet_pton(AF_INET6, text.c_str(), there.raw) == 1 && same_gid(there, gid);
}

} // namespace rdma::mux
