// SPDX-License-Identifier: GPL-2.0-or-later
#include "address_prefixes.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "gid.h"

namespace rdma::verbs {

namespace {

constexpr unsigned gid_bits = 128;
constexpr unsigned v4_begin = 96; // where an IPv4 address begins in its GID

bool bit(const ibv_gid& gid, unsigned at)
{
    return gid.raw[at / 8] >> (7 - at % 8) & 1;
}

// False: it is no IP address.
bool parse_address(const std::string& text, ibv_gid& gid, bool& is_v4)
{
    is_v4 = text.find(':') == std::string::npos;
    gid = {};
    if (!is_v4) {
        return inet_pton(AF_INET6, text.c_str(), gid.raw) == 1 && !is_v4_mapped(gid);
    }
    gid.raw[10] = gid.raw[11] = 0xff;
    return inet_pton(AF_INET, text.c_str(), gid.raw + v4_begin / 8) == 1;
}

} // namespace

std::expected<AddressPrefixes, std::string> AddressPrefixes::parse(std::string_view text)
{
    AddressPrefixes prefixes;
    for (bool more = !text.empty(); more;) {
        auto end = text.find('+');
        std::string_view element = text.substr(0, end);
        more = end != std::string_view::npos;
        text.remove_prefix(more ? end + 1 : text.size());

        auto slash = element.find('/');
        Prefix prefix{};
        if (!parse_address(std::string(element.substr(0, slash)), prefix.gid, prefix.is_v4)) {
            return std::unexpected(fmt::format("'{}' is no IPv4 or IPv6 address", element));
        }
        unsigned begin = prefix.is_v4 ? v4_begin : 0;
        unsigned bits = gid_bits - begin;
        if (slash != std::string_view::npos) {
            std::string_view digits = element.substr(slash + 1);
            auto [last, error] =
                std::from_chars(digits.data(), digits.data() + digits.size(), bits);
            if (error != std::errc{} || last != digits.data() + digits.size() ||
                bits > gid_bits - begin) {
                return std::unexpected(fmt::format("'{}': the prefix must have 0 to {} bits",
                                                   element, gid_bits - begin));
            }
        }
        prefix.bits = begin + bits;
        for (unsigned at = prefix.bits; at < gid_bits; ++at) {
            if (bit(prefix.gid, at)) {
                return std::unexpected(fmt::format("'{}' has bits set behind its prefix", element));
            }
        }
        prefixes._prefixes.push_back(prefix);
    }
    return prefixes;
}

bool AddressPrefixes::contains(const ibv_gid& gid) const
{
    return std::ranges::any_of(_prefixes, [&](const Prefix& prefix) {
        if (prefix.is_v4 != is_v4_mapped(gid)) {
            return false;
        }
        for (unsigned at = 0; at < prefix.bits; ++at) {
            if (bit(prefix.gid, at) != bit(gid, at)) {
                return false;
            }
        }
        return true;
    });
}

} // namespace rdma::verbs
