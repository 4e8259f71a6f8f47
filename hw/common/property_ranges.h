// SPDX-License-Identifier: GPL-2.0-or-later
//
// Properties of a kind of device that are numbers: checked against their ranges, and lowered to
// what a host's device has.
#pragma once

#include <fmt/format.h>
#include <infiniband/verbs.h>

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <type_traits>

namespace rdma {

struct PropertyRange {
    const char* property;
    uint64_t value;
    uint64_t least;
    uint64_t most;
    bool power_of_two;
};

// Nothing, or what is wrong: the first such property by its name and its valid range.
inline std::expected<void, std::string> check_ranges(std::span<const PropertyRange> ranges)
{
    for (const PropertyRange& range : ranges) {
        if (range.value < range.least || range.value > range.most ||
            (range.power_of_two && !std::has_single_bit(range.value))) {
            return std::unexpected(fmt::format(
                "property '{}' is {}: it must be {}from {} to {}", range.property, range.value,
                range.power_of_two ? "a power of two " : "", range.least, range.most));
        }
    }
    return {};
}

// No limit above the host's; one below 0 is 0.
void lower_to(auto& limit, std::integral auto host)
{
    uint64_t most = std::cmp_less(host, 0) ? 0 : static_cast<uint64_t>(host);
    limit = static_cast<std::remove_reference_t<decltype(limit)>>(std::min<uint64_t>(limit, most));
}
// The same for one that must be a power of two.
inline void lower_to_power(uint32_t& limit, int host)
{
    lower_to(limit, std::bit_floor(static_cast<uint32_t>(std::max(host, 1))));
}

// The limits that configurations of every kind of device have.
void lower_to_host(auto& config, const ibv_device_attr& host)
{
    lower_to(config.max_qp, host.max_qp);
    lower_to_power(config.max_qp_wr, host.max_qp_wr);
    lower_to(config.max_cq, host.max_cq);
    lower_to_power(config.max_cqe, host.max_cqe);
    lower_to(config.max_mr, host.max_mr);
    lower_to(config.max_mr_size, host.max_mr_size);
    lower_to(config.max_pd, host.max_pd);
    lower_to(config.max_srq, host.max_srq);
    lower_to_power(config.max_srq_wr, host.max_srq_wr);
    lower_to(config.max_qp_rd_atom, host.max_qp_rd_atom);
    lower_to(config.max_qp_init_rd_atom, host.max_qp_init_rd_atom);
}

} // namespace rdma
