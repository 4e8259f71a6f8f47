// SPDX-License-Identifier: GPL-2.0-or-later
//
// Owners of libibverbs' objects.
#pragma once

#include <fcntl.h>
#include <infiniband/verbs.h>

#include <memory>

namespace rdma::verbs {

// Calls the function at an object's end. A failure is the host's to remember: what
// the object held stays with the process until it closes the device.
template <auto destroy>
struct Destroy {
    template <typename T>
    void operator()(T* object) const
    {
        destroy(object);
    }
};

template <typename T, int (*destroy)(T*)>
using HostObject = std::unique_ptr<T, Destroy<destroy>>;

using HostMr = HostObject<ibv_mr, ibv_dereg_mr>;
using HostCq = HostObject<ibv_cq, ibv_destroy_cq>;
using HostSrq = HostObject<ibv_srq, ibv_destroy_srq>;
using HostQp = HostObject<ibv_qp, ibv_destroy_qp>;
using HostChannel = HostObject<ibv_comp_channel, ibv_destroy_comp_channel>;

// These are the threads' too that make address handles.
using HostContext = std::shared_ptr<ibv_context>;
using HostPd = std::shared_ptr<ibv_pd>;

// Reading events from it never waits.
inline void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

} // namespace rdma::verbs
