// SPDX-License-Identifier: GPL-2.0-or-later
//
// A list of IP prefixes, as the property gid-allow has it.
#pragma once

#include <infiniband/verbs.h>

#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace rdma::verbs {

class AddressPrefixes {
public:
    // "192.0.2.7+198.51.100.0/24+2001:db8::/64": addresses, which stand for themselves alone, and
    // prefixes, separated by '+'. IPv4 prefixes have 0 to 32 bits, IPv6 ones 0 to 128, and no bit
    // is set behind them. Otherwise an error for a person: what is wrong with which element.
    static std::expected<AddressPrefixes, std::string> parse(std::string_view text);

    bool empty() const { return _prefixes.empty(); }
    // Whether the GID's IP address (RFC 4291, 2.5.5.2 for IPv4) is in one of them. An IPv6
    // prefix holds no IPv4 address, ::/0 neither.
    bool contains(const ibv_gid& gid) const;

private:
    struct Prefix {
        ibv_gid gid; // of its first address
        bool is_v4;
        unsigned bits; // of the GID
    };
    std::vector<Prefix> _prefixes;
};

} // namespace rdma::verbs
