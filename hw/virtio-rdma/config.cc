// SPDX-License-Identifier: GPL-2.0-or-later
//
// Limits of a virtio RDMA device: defaults, checks, and what they mean for the backend.
#include <algorithm>
#include <stdexcept>

#include "create_device.h"
#include "property_ranges.h"
#include "virtio_rdma_device.h"

void virtio_rdma_config_default(VirtioRdmaConfig* config)
{
    *config = {
#define X(type, member, name, value, ...) .member = value,
        VIRTIO_RDMA_PROPERTIES(X)
#undef X
        .number_seed = 0,
    };
}

size_t virtio_rdma_max_request(const VirtioRdmaConfig* config)
{
    using namespace rdma;
    constexpr size_t address = sizeof(uint64_t);
    size_t cq_pages =
        virtio::EntryArray::pages_for(sizeof(virtio_rdma_cq_entry), config->max_cqe);
    size_t work_pages =
        virtio::EntryArray::pages_for(page_size, std::max(config->max_qp_wr, config->max_srq_wr));
    return std::max({sizeof(virtio_rdma_create_mr) + virtio::max_mr_pages(*config) * address,
                     sizeof(virtio_rdma_create_cq) + cq_pages * address,
                     sizeof(virtio_rdma_create_qp) + 2 * work_pages * address,
                     sizeof(virtio_rdma_modify_qp)});
}

namespace rdma {

std::vector<Device::Property> VirtioRdmaDevice::guest_visible_properties() const
{
    std::vector<Property> properties{
#define X(type, member, name, ...) {name, _config.member},
        VIRTIO_RDMA_PROPERTIES(X)
#undef X
    };
    properties.emplace_back("features", offered_features());
    properties.emplace_back("inline",
                            std::min(_config.max_inline, _backend.features().max_inline));
    return properties;
}

namespace virtio {

uint32_t max_mr_pages(const VirtioRdmaConfig& config)
{
    // One more where it begins within a page.
    return static_cast<uint32_t>(
        std::min(config.max_mr_size / page_size + 1, max_pages_registered));
}

// [virtio-rdma DEV-12]
std::expected<void, std::string> check_config(const VirtioRdmaConfig& config)
{
    const PropertyRange ranges[] = {
#define X(type, member, name, value, least, most, power_of_two, ...)                               \
    {name, config.member, least, most, power_of_two},
        VIRTIO_RDMA_PROPERTIES(X)
#undef X
    };
    return check_ranges(ranges);
}

VirtioRdmaConfig fit_to_host(const VirtioRdmaConfig& config, const ibv_device_attr& host)
{
    VirtioRdmaConfig fitted = config;
    lower_to_host(fitted, host);
    lower_to(fitted.max_sge, host.max_sge);
    if (auto checked = check_config(fitted); !checked) {
        throw std::runtime_error("the host's device has too little: " + checked.error());
    }
    return fitted;
}

Limits limits_of(const VirtioRdmaConfig& config)
{
    return {
        // QPs have ids from 2 on, and the GSI's may not have been created.
        .max_qp = config.max_qp + 2,
        .max_qp_wr = config.max_qp_wr,
        .max_sge = config.max_sge,
        .max_cq = config.max_cq,
        .max_mr = config.max_mr,
        .max_mr_size = config.max_mr_size,
        .max_pd = config.max_pd,
        .max_srq = config.max_srq,
        .max_srq_wr = config.max_srq_wr,
        .gid_tbl_len = config.gid_tbl_len,
        .max_qp_rd_atom = config.max_qp_rd_atom,
        .max_qp_init_rd_atom = config.max_qp_init_rd_atom,
        .qpn_generations = true,
        .roce_version = 2,
        .any_path_mtu = true,
        .number_seed = config.number_seed,
    };
}

} // namespace virtio

} // namespace rdma

RdmaDevice* virtio_rdma_device_create(const VirtioRdmaConfig* config,
                                      const RdmaBackendConfig* backend, const RdmaHostOps* ops,
                                      void* opaque, char** error)
{
    using namespace rdma;
    constexpr ConfigRules<VirtioRdmaConfig> rules{virtio::check_config, virtio::fit_to_host,
                                                  virtio::limits_of};
    return create_device<VirtioRdmaDevice>(migration::DeviceKind::virtio_rdma, rules, *config, backend,
                                           *ops, opaque, error);
}
