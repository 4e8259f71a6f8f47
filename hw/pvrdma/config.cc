// SPDX-License-Identifier: GPL-2.0-or-later
//
// Limits of a PVRDMA device: defaults, checks, and what they mean for the
// backend.
#include <bit>
#include <stdexcept>

#include <fmt/format.h>

#include "create_device.h"
#include "property_ranges.h"
#include "pvrdma_device.h"

void pvrdma_config_default(PvrdmaConfig* config)
{
    *config = {
#define X(type, member, name, value, ...) .member = value,
        PVRDMA_PROPERTIES(X)
#undef X
        .roce_version = 2,
        .number_seed = 0,
    };
}

namespace rdma {

std::vector<Device::Property> PvrdmaDevice::guest_visible_properties() const
{
    std::vector<Property> properties{
#define X(type, member, name, ...) {name, _config.member},
        PVRDMA_PROPERTIES(X)
#undef X
    };
    // Its place in a saved state.
    properties.insert(properties.begin() + 1, {"roce", _config.roce_version});
    return properties;
}

std::expected<void, std::string> check_config(const PvrdmaConfig& config)
{
    const PropertyRange ranges[] = {
        {"roce-version", config.roce_version, 1, 2, false},
#define X(type, member, name, value, least, most, power_of_two, ...)                               \
    {name, config.member, least, most, power_of_two},
        PVRDMA_PROPERTIES(X)
#undef X
    };
    if (auto checked = check_ranges(ranges); !checked) {
        return checked;
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
    lower_to_host(fitted, host);
    lower_to_power(fitted.max_sge, host.max_sge); // see limits_of()
    lower_to_power(fitted.max_srq_sge, host.max_srq_sge);
    lower_to(fitted.max_ah, host.max_ah);
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

RdmaDevice* pvrdma_device_create(const PvrdmaConfig* config, const RdmaBackendConfig* backend,
                                 const RdmaHostOps* ops, void* opaque, char** error)
{
    using namespace rdma;
    constexpr ConfigRules<PvrdmaConfig> rules{check_config, fit_to_host, limits_of};
    return create_device<PvrdmaDevice>(migration::DeviceKind::pvrdma, rules, *config, backend,
                                       *ops, opaque, error);
}
