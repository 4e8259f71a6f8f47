// SPDX-License-Identifier: GPL-2.0-or-later
#include <cstdlib>
#include <stdexcept>

#include "verbs_runner.h"

namespace rdma {

std::shared_ptr<verbs::HostPort> open_host_port(const RdmaHostPortConfig&)
{
    throw std::runtime_error("'backend' is verbs: this build has no verbs backend; configure with "
                             "-Dverbs=enabled, which needs libibverbs-dev and libibumad-dev");
}

// Not reached: there is no port.
const ibv_device_attr& host_attributes(const verbs::HostPort&)
{
    std::abort();
}

std::unique_ptr<Runner> make_verbs_runner(std::shared_ptr<verbs::HostPort>, const Limits&,
                                          GuestMemory&, Statistics&, DeviceHost&)
{
    return nullptr;
}

} // namespace rdma
