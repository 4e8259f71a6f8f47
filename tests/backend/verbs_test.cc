// SPDX-License-Identifier: GPL-2.0-or-later
//
// What only the verbs backend has: the host's port, its addresses, its memory. On
// the first RDMA device of the command line.
#include <arpa/inet.h>

#include <cerrno>
#include <chrono>
#include <stdexcept>

#include "backend_test.h"
#include "interface_address.h"
#include "verbs_backend.h"

namespace rdma::test {
namespace {

using verbs::HostPort;
using verbs::VerbsBackend;

class VerbsOnly : public testing::TestWithParam<std::string> {
protected:
    VerbsOnly()
    {
        config.ibdev = GetParam().c_str();
        config.ibport = 1;
        config.gid_index = -1;
    }
    std::string what_is_wrong()
    {
        try {
            HostPort opened(config);
            return "";
        } catch (const std::runtime_error& error) {
            return error.what();
        }
    }
    void start()
    {
        port = std::make_shared<HostPort>(config);
        backend = std::make_unique<VerbsBackend>(
            port, small_limits(), end.memory, end.stats,
            [this](int, std::string_view message) { log += message; });
        backend->set_client(end);
        end.backend = backend.get();
        end.pd = backend->alloc_pd().value();
    }
    static ibv_gid gid_of(const char* address)
    {
        ibv_gid gid{};
        gid.raw[10] = gid.raw[11] = 0xff;
        inet_pton(AF_INET, address, gid.raw + 12);
        return gid;
    }
    // The host's kernel makes and removes GIDs a while after addresses.
    bool becomes(bool there, const ibv_gid& gid)
    {
        auto end_of_wait = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (port->find_gid(gid, 2).has_value() != there) {
            if (std::chrono::steady_clock::now() > end_of_wait) {
                return false;
            }
        }
        return true;
    }

    RdmaHostPortConfig config{};
    BackendEnd end{small_limits()};
    std::shared_ptr<HostPort> port;
    std::string log;
    std::unique_ptr<VerbsBackend> backend;
};

TEST_P(VerbsOnly, what_is_wrong_with_a_port_is_told)
{
    EXPECT_EQ(what_is_wrong(), "");
    config.ibport = 2;
    EXPECT_NE(what_is_wrong().find("property 'ibport' is 2: RDMA device '" + GetParam() +
                                   "' has ports 1 to 1"),
              std::string::npos);
    config.ibport = 1;
    config.gid_index = 200;
    EXPECT_NE(what_is_wrong().find("property 'gid-index' is 200: port 1"), std::string::npos);
    config.gid_index = -1;
    config.ibdev = "nosuch7";
    EXPECT_NE(what_is_wrong().find("there is no such RDMA device: this host has "),
              std::string::npos);
    EXPECT_NE(what_is_wrong().find(GetParam()), std::string::npos);
}

TEST_P(VerbsOnly, paging_is_used_where_there_is_any)
{
    ibv_device_attr_ex attr{};
    ASSERT_EQ(ibv_query_device_ex(HostPort(config).context(), nullptr, &attr), 0);
    bool any = attr.odp_caps.general_caps & IBV_ODP_SUPPORT;
    config.odp = RDMA_ODP_OFF;
    EXPECT_FALSE(HostPort(config).on_demand_paging());
    config.odp = RDMA_ODP_ON;
    if (any) {
        EXPECT_TRUE(HostPort(config).on_demand_paging());
    } else {
        EXPECT_NE(what_is_wrong().find("property 'odp' is on"), std::string::npos);
        config.odp = RDMA_ODP_AUTO;
        EXPECT_FALSE(HostPort(config).on_demand_paging());
    }
}

// [virtio-rdma SEC-9]
TEST_P(VerbsOnly, an_address_that_the_host_does_not_have_is_refused)
{
    start();
    EXPECT_EQ(backend->add_gid(1, gid_of("10.99.0.7"), 2, {}), EADDRNOTAVAIL);
    EXPECT_NE(log.find("the guest's address 10.99.0.7 is not on interface"), std::string::npos)
        << log;
    EXPECT_EQ(backend->del_gid(1), EINVAL);
}

TEST_P(VerbsOnly, an_address_can_be_added_to_the_host)
{
    config.add_addresses = true;
    config.gid_allow = "10.99.0.0/16";
    start();
    ibv_gid gid = gid_of("10.99.0.8");
    ASSERT_EQ(backend->add_gid(1, gid, 2, {}), 0) << log;
    EXPECT_TRUE(becomes(true, gid));
    EXPECT_EQ(verbs::add_interface_address(port->interface_index(), gid), EEXIST);
    EXPECT_EQ(backend->del_gid(1), 0);
    EXPECT_TRUE(becomes(false, gid));
    EXPECT_EQ(verbs::remove_interface_address(port->interface_index(), gid), EADDRNOTAVAIL);
}

// Its old GID is in the host's table still when it is added again.
TEST_P(VerbsOnly, an_address_that_is_given_up_and_added_at_once_is_there)
{
    config.add_addresses = true;
    config.gid_allow = "10.99.0.0/16";
    start();
    ibv_gid gid = gid_of("10.99.0.11");
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(backend->add_gid(1, gid, 2, {}), 0) << log;
        ASSERT_TRUE(becomes(true, gid));
        ASSERT_EQ(backend->del_gid(1), 0);
        ASSERT_EQ(backend->add_gid(1, gid, 2, {}), 0) << log;
        ASSERT_EQ(verbs::add_interface_address(port->interface_index(), gid), EEXIST);
        ASSERT_EQ(backend->del_gid(1), 0);
        ASSERT_TRUE(becomes(false, gid));
    }
}

TEST_P(VerbsOnly, an_address_that_was_there_stays)
{
    config.add_addresses = true;
    config.gid_allow = "10.99.0.0/16";
    start();
    ibv_gid gid = gid_of("10.99.0.9");
    ASSERT_EQ(verbs::add_interface_address(port->interface_index(), gid), 0);
    EXPECT_EQ(backend->add_gid(1, gid, 2, {}), 0);
    EXPECT_EQ(backend->del_gid(1), 0);
    EXPECT_EQ(verbs::remove_interface_address(port->interface_index(), gid), 0);
}

TEST_P(VerbsOnly, added_addresses_go_with_the_device)
{
    config.add_addresses = true;
    config.gid_allow = "10.99.0.0/16";
    start();
    ibv_gid gid = gid_of("10.99.0.10");
    ASSERT_EQ(backend->add_gid(1, gid, 2, {}), 0);
    backend->reset();
    EXPECT_EQ(verbs::remove_interface_address(port->interface_index(), gid), EADDRNOTAVAIL);
}

TEST_P(VerbsOnly, memory_that_is_not_shared_is_not_registered)
{
    start();
    const uint64_t page = ram_base;
    alignas(page_size) static std::byte own[page_size];
    RdmaMemoryRegion region{ram_base, page_size, own, false, false, 0, 0};
    end.memory.set_table({&region, 1});
    EXPECT_EQ(error_of(end.register_list(0, page_size, all_rights, {&page, 1})), EFAULT);
    EXPECT_NE(log.find("guest memory at 0x100000 is not shared"), std::string::npos) << log;
    EXPECT_EQ(backend->count(ObjectKind::mr), 0u);
}

TEST_P(VerbsOnly, a_guest_cannot_fill_the_log)
{
    start();
    unsigned told = 0;
    for (unsigned i = 0; i < 100; ++i) {
        log.clear();
        EXPECT_EQ(backend->add_gid(1, gid_of("10.99.0.7"), 2, {}), EADDRNOTAVAIL);
        told += !log.empty();
    }
    EXPECT_EQ(told, 20u);
}

TEST_P(VerbsOnly, regions_of_kernels_are_told_from_others)
{
    start();
    MrInit init;
    init.pd = end.pd;
    init.kind = MrInit::Kind::fast_reg;
    init.max_pages = 16;
    EXPECT_EQ(error_of(backend->reg_mr(init)), EOPNOTSUPP);
    EXPECT_FALSE(backend->features().fast_registration);
    init.kind = MrInit::Kind::dma;
    init.access = IBV_ACCESS_LOCAL_WRITE;
    auto keys = backend->reg_mr(init);
    ASSERT_TRUE(keys.has_value());
    EXPECT_EQ(backend->dereg_mr(keys->id), 0);
    init.access = all_rights;
    EXPECT_EQ(error_of(backend->reg_mr(init)), EINVAL);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VerbsOnly);
INSTANTIATE_TEST_SUITE_P(Backend, VerbsOnly, testing::ValuesIn(devices_under_test()));

} // namespace
} // namespace rdma::test
