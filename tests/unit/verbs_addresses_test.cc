// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which addresses a guest gets for RDMA, on the stand-in for a host's devices.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../backend/backend_test.h"
#include "../backend/verbs_host.h"
#include "stand_in_host.h"

namespace rdma::test {
namespace {

class VerbsAddresses : public testing::Test {
protected:
    VerbsAddresses()
    {
        host.add_device("alpha", {gid_of("10.0.0.1"), gid_of("10.0.0.2"), gid_of("2001:db8::2")});
        config.ibdev = "alpha";
        config.ibport = 1;
        config.gid_index = -1;
    }
    int bind(const char* address, uint32_t index = 0)
    {
        if (!backend) {
            auto port = std::make_shared<verbs::HostPort>(config);
            backend.emplace(port, end.limits, end.memory, end.stats,
                            [this](int, std::string_view line) { log += line; });
        }
        return backend->add_gid(index, gid_of(address), 2, {});
    }
    // Whether peers can reach the control channel there.
    static bool is_open(const char* address)
    {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(peer_port);
        inet_pton(AF_INET, address, &to.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        bool connected = connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
        close(fd);
        return connected;
    }
    std::string error_at_start()
    {
        try {
            verbs::HostPort port(config);
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return "none";
    }

    static constexpr uint16_t peer_port = 4793;
    StandInHost host;
    RdmaHostPortConfig config{};
    BackendEnd end{small_limits()};
    std::optional<verbs::VerbsBackend> backend;
    std::string log;
};

TEST_F(VerbsAddresses, without_a_list_are_those_of_the_hosts_interface)
{
    EXPECT_EQ(bind("10.0.0.1"), 0);
    EXPECT_EQ(bind("10.0.0.2"), 0);
    EXPECT_EQ(bind("10.0.0.3"), EADDRNOTAVAIL);
}

TEST_F(VerbsAddresses, outside_the_list_are_refused_though_the_host_has_them)
{
    config.gid_allow = "10.0.0.2+2001:db8::/32";
    EXPECT_EQ(bind("10.0.0.2"), 0);
    EXPECT_EQ(bind("2001:db8::2"), 0);
    EXPECT_EQ(log, "");
    // Another VM's.
    EXPECT_EQ(bind("10.0.0.1"), EADDRNOTAVAIL);
    EXPECT_NE(log.find("the guest's address 10.0.0.1 is not among those of property 'gid-allow'"),
              std::string::npos)
        << log;
}

TEST_F(VerbsAddresses, outside_the_list_are_not_added_to_the_host)
{
    config.add_addresses = true;
    config.gid_allow = "10.0.0.2";
    // The gateway's.
    EXPECT_EQ(bind("10.0.0.254"), EADDRNOTAVAIL);
    EXPECT_NE(log.find("'gid-allow'"), std::string::npos) << log;
    // One that is in it gets as far as the interface, which a stand-in does not have.
    log.clear();
    config.gid_allow = "10.0.0.254";
    backend.reset();
    EXPECT_EQ(bind("10.0.0.254"), EADDRNOTAVAIL);
    EXPECT_NE(log.find("10.0.0.254 cannot be added to interface"), std::string::npos) << log;
}

TEST_F(VerbsAddresses, are_not_added_without_a_list)
{
    config.add_addresses = true;
    for (const char* none : {static_cast<const char*>(nullptr), ""}) {
        config.gid_allow = none;
        EXPECT_NE(error_at_start().find("property 'gid-policy' is add: 'gid-allow' must say"),
                  std::string::npos);
    }
}

TEST_F(VerbsAddresses, that_are_no_list_are_refused_at_the_start)
{
    config.gid_allow = "10.0.0.1/24";
    EXPECT_EQ(error_at_start(),
              "property 'gid-allow' is '10.0.0.1/24': '10.0.0.1/24' has bits set behind its prefix "
              "(a list such as 192.0.2.7+2001:db8::/64)");
}

TEST_F(VerbsAddresses, have_peers_as_long_as_the_guest_has_them)
{
    host.add_device("beta", {gid_of("127.0.4.1"), gid_of("127.0.4.2")});
    config.ibdev = "beta";
    config.peer_port = peer_port;
    ASSERT_EQ(bind("127.0.4.1"), 0);
    EXPECT_TRUE(is_open("127.0.4.1"));
    // Another one in its place.
    ASSERT_EQ(bind("127.0.4.2"), 0);
    EXPECT_FALSE(is_open("127.0.4.1"));
    EXPECT_TRUE(is_open("127.0.4.2"));
    // The same one twice.
    ASSERT_EQ(bind("127.0.4.2", 1), 0);
    ASSERT_EQ(backend->del_gid(0), 0);
    EXPECT_TRUE(is_open("127.0.4.2"));
    ASSERT_EQ(bind("10.0.0.9", 1), EADDRNOTAVAIL); // which leaves none
    EXPECT_FALSE(is_open("127.0.4.2"));
}

} // namespace
} // namespace rdma::test
