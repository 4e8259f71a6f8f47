// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include "address_prefixes.h"
#include "stand_in_host.h"

namespace rdma::verbs {
namespace {

using test::gid_of;

AddressPrefixes prefixes(std::string_view text)
{
    auto parsed = AddressPrefixes::parse(text);
    EXPECT_TRUE(parsed) << parsed.error();
    return parsed.value_or(AddressPrefixes());
}

std::string error_of(std::string_view text)
{
    auto parsed = AddressPrefixes::parse(text);
    return parsed ? "none" : parsed.error();
}

TEST(AddressPrefixes, an_address_stands_for_itself_alone)
{
    auto list = prefixes("192.0.2.7+2001:db8::7");
    EXPECT_TRUE(list.contains(gid_of("192.0.2.7")));
    EXPECT_FALSE(list.contains(gid_of("192.0.2.6")));
    EXPECT_FALSE(list.contains(gid_of("192.0.3.7")));
    EXPECT_TRUE(list.contains(gid_of("2001:db8::7")));
    EXPECT_FALSE(list.contains(gid_of("2001:db8::6")));
}

TEST(AddressPrefixes, a_prefix_holds_what_begins_with_it)
{
    auto list = prefixes("10.1.0.0/22+2001:db8:0:4000::/50+fe80::/10");
    for (const char* in : {"10.1.0.0", "10.1.3.255", "2001:db8:0:4000::", "2001:db8:0:7fff::1",
                           "fe80::1", "febf::1"}) {
        EXPECT_TRUE(list.contains(gid_of(in))) << in;
    }
    for (const char* out :
         {"10.1.4.0", "10.0.255.255", "2001:db8:0:3fff::1", "2001:db8:0:8000::", "fec0::1", "::"}) {
        EXPECT_FALSE(list.contains(gid_of(out))) << out;
    }
}

TEST(AddressPrefixes, of_no_bits_holds_all_of_its_family)
{
    EXPECT_TRUE(prefixes("0.0.0.0/0").contains(gid_of("203.0.113.1")));
    EXPECT_FALSE(prefixes("0.0.0.0/0").contains(gid_of("2001:db8::1")));
    EXPECT_TRUE(prefixes("::/0").contains(gid_of("2001:db8::1")));
    EXPECT_FALSE(prefixes("::/0").contains(gid_of("203.0.113.1")));
}

TEST(AddressPrefixes, none_hold_nothing)
{
    EXPECT_TRUE(prefixes("").empty());
    EXPECT_FALSE(prefixes("").contains(gid_of("203.0.113.1")));
}

TEST(AddressPrefixes, what_is_none_is_named)
{
    EXPECT_EQ(error_of("192.0.2.7+host"), "'host' is no IPv4 or IPv6 address");
    EXPECT_EQ(error_of("192.0.2.7+"), "'' is no IPv4 or IPv6 address");
    EXPECT_EQ(error_of("192.0.2.7,192.0.2.8"), "'192.0.2.7,192.0.2.8' is no IPv4 or IPv6 address");
    EXPECT_EQ(error_of("::ffff:192.0.2.7"), "'::ffff:192.0.2.7' is no IPv4 or IPv6 address");
    EXPECT_EQ(error_of("192.0.2.0/33"), "'192.0.2.0/33': the prefix must have 0 to 32 bits");
    EXPECT_EQ(error_of("192.0.2.0/"), "'192.0.2.0/': the prefix must have 0 to 32 bits");
    EXPECT_EQ(error_of("192.0.2.0/-1"), "'192.0.2.0/-1': the prefix must have 0 to 32 bits");
    EXPECT_EQ(error_of("2001:db8::/129"), "'2001:db8::/129': the prefix must have 0 to 128 bits");
    EXPECT_EQ(error_of("192.0.2.7/24"), "'192.0.2.7/24' has bits set behind its prefix");
}

} // namespace
} // namespace rdma::verbs
