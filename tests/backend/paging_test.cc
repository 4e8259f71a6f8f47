// SPDX-License-Identifier: GPL-2.0-or-later
//
// On-demand paging to the registration call: the device under test (Linux's rxe) has
// none, so it is said to have some, and what is asked of it is looked at.
#include <dlfcn.h>

#include <cstring>

#include "backend_test.h"
#include "verbs_backend.h"
#include "verbs_host.h"

namespace {

// While a test is running: what the device is said to have, and the access that was
// asked for last.
struct Pretence {
    ibv_odp_caps caps{};
    unsigned access = 0;
};
Pretence* pretence;

using QueryDeviceEx = decltype(verbs_context::query_device_ex);
QueryDeviceEx real_query_device_ex;

int query_device_ex(ibv_context* context, const ibv_query_device_ex_input* input,
                    ibv_device_attr_ex* attr, size_t size)
{
    int error = real_query_device_ex(context, input, attr, size);
    if (error == 0 && pretence) {
        attr->odp_caps = pretence->caps;
    }
    return error;
}

} // namespace

// In the place of libibverbs'.
extern "C" ibv_context* ibv_open_device(ibv_device* device)
{
    auto real = reinterpret_cast<decltype(&ibv_open_device)>(dlsym(RTLD_NEXT, "ibv_open_device"));
    ibv_context* context = real(device);
    verbs_context* extended = context && pretence ? verbs_get_ctx(context) : nullptr;
    if (extended && extended->query_device_ex != query_device_ex) {
        real_query_device_ex = extended->query_device_ex;
        extended->query_device_ex = query_device_ex;
    }
    return context;
}

extern "C" ibv_mr* ibv_reg_mr_iova2(ibv_pd* pd, void* address, size_t length, uint64_t iova,
                                    unsigned access)
{
    auto real =
        reinterpret_cast<decltype(&ibv_reg_mr_iova2)>(dlsym(RTLD_NEXT, "ibv_reg_mr_iova2"));
    if (pretence) {
        pretence->access = access;
        access &= ~unsigned{IBV_ACCESS_ON_DEMAND};
    }
    return real(pd, address, length, iova, access);
}

namespace rdma::test {
namespace {

using verbs::HostPort;
using verbs::VerbsBackend;

constexpr uint32_t every_operation = IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_RECV |
                                     IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ |
                                     IBV_ODP_SUPPORT_ATOMIC | IBV_ODP_SUPPORT_SRQ_RECV;

class VerbsPaging : public testing::TestWithParam<std::string> {
protected:
    VerbsPaging()
    {
        // Like Mellanox' NICs.
        _pretence.caps = {IBV_ODP_SUPPORT,
                          {every_operation, 0, IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_RECV}};
        pretence = &_pretence;
    }
    ~VerbsPaging() override { pretence = nullptr; }

    // Whether a region is registered for on-demand paging.
    bool is_asked_for(int odp)
    {
        RdmaHostPortConfig config{};
        config.ibdev = GetParam().c_str();
        config.ibport = 1;
        config.gid_index = -1;
        config.odp = odp;
        auto port = std::make_shared<HostPort>(config);
        BackendEnd end{small_limits()};
        end.gid = find_gid(*port);
        VerbsBackend backend(port, end.limits, end.memory, end.stats, print_log);
        backend.set_client(end);
        end.set_up(backend);
        bool asked = _pretence.access & IBV_ACCESS_ON_DEMAND;
        EXPECT_EQ(asked, port->on_demand_paging());
        EXPECT_TRUE(_pretence.access & IBV_ACCESS_LOCAL_WRITE);
        return asked;
    }

    Pretence _pretence;
};

TEST_P(VerbsPaging, regions_are_paged_where_every_operation_can_be)
{
    EXPECT_TRUE(is_asked_for(RDMA_ODP_AUTO));
    EXPECT_TRUE(is_asked_for(RDMA_ODP_ON));
    EXPECT_FALSE(is_asked_for(RDMA_ODP_OFF));
}

TEST_P(VerbsPaging, some_operations_are_enough_where_paging_is_asked_for)
{
    _pretence.caps.per_transport_caps.rc_odp_caps &= ~uint32_t{IBV_ODP_SUPPORT_SRQ_RECV};
    EXPECT_FALSE(is_asked_for(RDMA_ODP_AUTO));
    EXPECT_TRUE(is_asked_for(RDMA_ODP_ON));
    _pretence.caps = {};
    EXPECT_FALSE(is_asked_for(RDMA_ODP_AUTO));
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VerbsPaging);
INSTANTIATE_TEST_SUITE_P(Backend, VerbsPaging, testing::ValuesIn(devices_under_test()));

} // namespace
} // namespace rdma::test
