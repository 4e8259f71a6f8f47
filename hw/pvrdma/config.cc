// SPDX-License-Identifier: GPL-2.0-or-later
//
// Limits of a PVRDMA device: defaults, checks, and what they mean for the
// backend.
#include <algorithm>
#include <bit>
#include <concepts>
#include <stdexcept>

#include <fmt/format.h>

#include "pvrdma_device.h"

// VMware's values, as a guest prints them, but for deeper queues and fewer doorbell pages.
void pvrdma_config_default(PvrdmaConfig* config)
{
    *config = {};
    config->version = 20;
    config->roce_version = 2;
    config->max_qp = 32768;
    config->max_qp_wr = 16384; // UCX asks for 4096 receives of a UD queue pair
    config->max_sge = 16;
    config->max_cq = 4096;
    config->max_cqe = 262144;
    config->max_mr = 262144;
    config->max_mr_size = 0xffffffff;
    config->max_pd = 32768;
    config->max_srq = 4096;
    config->max_srq_wr = 4096;
    config->max_srq_sge = 16;
    config->max_ah = 65536;
    config->max_uar = 512; // 2 MiB: what firmware keeps free behind a port for hot-plug
    config->gid_tbl_len = 64;
    config->max_qp_rd_atom = 128;
    config->max_qp_init_rd_atom = 128;
}

namespace rdma {

std::vector<Device::Property> PvrdmaDevice::guest_visible_properties() const
{
    return {
        {"version", _config.version},
        {"roce", _config.roce_version},
        {"max-qp", _config.max_qp},
        {"max-qp-wr", _config.max_qp_wr},
        {"max-sge", _config.max_sge},
        {"max-cq", _config.max_cq},
        {"max-cqe", _config.max_cqe},
        {"max-mr", _config.max_mr},
        {"max-mr-size", _config.max_mr_size},
        {"max-pd", _config.max_pd},
        {"max-srq", _config.max_srq},
        {"max-srq-wr", _config.max_srq_wr},
        {"max-srq-sge", _config.max_srq_sge},
        {"max-ah", _config.max_ah},
        {"max-uar", _config.max_uar},
        {"gid-tbl-len", _config.gid_tbl_len},
        {"max-qp-rd-atom", _config.max_qp_rd_atom},
        {"max-qp-init-rd-atom", _config.max_qp_init_rd_atom},
        {"node-guid", _config.node_guid},
    };
}

std::expected<void, std::string> check_config(const PvrdmaConfig& config)
{
    struct Range {
        const char* property;
        uint64_t value;
        uint64_t least;
        uint64_t most;
        bool power_of_two;
    };
    const Range ranges[] = {
        {"version", config.version, 17, 20, false},
        {"roce-version", config.roce_version, 1, 2, false},
        // Handles 0 and 1 are special. A CQE has 16 bits for the handle.
        {"max-qp", config.max_qp, 3, 65535, false},
        {"max-qp-wr", config.max_qp_wr, 1, max_wr_limit, true},
        {"max-sge", config.max_sge, 1, max_sge_limit, false},
        {"max-cq", config.max_cq, 1, 65536, false},
        {"max-cqe", config.max_cqe, 1, max_cqe_limit, true},
        {"max-mr", config.max_mr, 2, (1u << 24) - 1, false},
        {"max-mr-size", config.max_mr_size, page_size, uint64_t{1} << 39, false},
        {"max-pd", config.max_pd, 1, (1u << 24) - 1, false},
        {"max-srq", config.max_srq, 0, 65535, false},
        {"max-srq-wr", config.max_srq_wr, 1, max_wr_limit, true},
        {"max-srq-sge", config.max_srq_sge, 1, max_sge_limit, false},
        {"max-ah", config.max_ah, 1, INT32_MAX, false},
        {"max-uar", config.max_uar, 2, 65536, true},
        {"gid-tbl-len", config.gid_tbl_len, 1, 256, false},
        {"max-qp-rd-atom", config.max_qp_rd_atom, 1, 128, false},
        {"max-qp-init-rd-atom", config.max_qp_init_rd_atom, 1, 128, false},
    };
    for (const Range& range : ranges) {
        if (range.value < range.least || range.value > range.most ||
            (range.power_of_two && !std::has_single_bit(range.value))) {
            return std::unexpected(fmt::format(
                "property '{}' is {}: it must be {}from {} to {}", range.property, range.value,
                range.power_of_two ? "a power of two " : "", range.least, range.most));
        }
    }
    if (config.version == 17 && config.roce_version != 1) {
        return std::unexpected(
            std::string("property 'version' is 17, which is for 'roce-version' 1 only: "
                        "it must be from 18 to 20 for RoCE version 2"));
    }
    return {};
}

PvrdmaConfig fit_to_host(const PvrdmaConfig& config, const ibv_device_attr& host)
{
    // QPs are known to peers by the numbers the host gives them, handles are small.
    constexpr uint32_t version_with_qp_handle = 20;
    if (config.version < version_with_qp_handle) {
        throw std::runtime_error(fmt::format(
            "property 'version' is {}: 'backend' verbs needs 20, which lets QP numbers "
            "be the host's", config.version));
    }
    PvrdmaConfig fitted = config;
    auto lower = [](auto& limit, std::integral auto to) {
        limit = static_cast<std::remove_reference_t<decltype(limit)>>(
            std::min<uint64_t>(limit, static_cast<uint64_t>(std::max<decltype(to)>(to, 0))));
    };
    auto lower_to_power = [&](uint32_t& limit, int to) {
        lower(limit, std::bit_floor(static_cast<uint32_t>(std::max(to, 1))));
    };
    lower(fitted.max_qp, host.max_qp);
    lower_to_power(fitted.max_qp_wr, host.max_qp_wr);
    lower_to_power(fitted.max_sge, host.max_sge); // see limits_of()
    lower(fitted.max_cq, host.max_cq);
    lower_to_power(fitted.max_cqe, host.max_cqe);
    lower(fitted.max_mr, host.max_mr);
    lower(fitted.max_mr_size, host.max_mr_size);
    lower(fitted.max_pd, host.max_pd);
    lower(fitted.max_srq, host.max_srq);
    lower_to_power(fitted.max_srq_wr, host.max_srq_wr);
    lower_to_power(fitted.max_srq_sge, host.max_srq_sge);
    lower(fitted.max_ah, host.max_ah);
    lower(fitted.max_qp_rd_atom, host.max_qp_rd_atom);
    lower(fitted.max_qp_init_rd_atom, host.max_qp_init_rd_atom);
    if (auto checked = check_config(fitted); !checked) {
        throw std::runtime_error("the host's device has too little: " + checked.error());
    }
    return fitted;
}

Limits limits_of(const PvrdmaConfig& config)
{
    return {
        .max_qp = config.max_qp,
        .max_qp_wr = config.max_qp_wr,
        // Linux's driver rounds the number it asks for up to a power of two.
        .max_sge = std::bit_ceil(config.max_sge),
        .max_cq = config.max_cq,
        .max_mr = config.max_mr,
        .max_mr_size = config.max_mr_size,
        .max_pd = config.max_pd,
        .max_srq = config.max_srq,
        .max_srq_wr = config.max_srq_wr,
        .gid_tbl_len = config.gid_tbl_len,
        .max_qp_rd_atom = config.max_qp_rd_atom,
        .max_qp_init_rd_atom = config.max_qp_init_rd_atom,
        .qpn_generations = config.version >= 20,
        .roce_version = config.roce_version,
        .number_seed = config.number_seed,
    };
}

} // namespace rdma
