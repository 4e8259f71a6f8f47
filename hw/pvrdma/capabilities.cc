// SPDX-License-Identifier: GPL-2.0-or-later
#include "capabilities.h"

#include <bit>

#include "backend.h"
#include "eui64.h"
#include "port_attributes.h"

namespace rdma::pvrdma {

namespace {

constexpr uint32_t pci_vendor_vmware = 0x15ad;
constexpr uint32_t pci_device_pvrdma = 0x0820;
// Shown as major.minor.patch: 16 bits each, from bit 32 down.
constexpr uint64_t firmware_version = uint64_t{1} << 32;
constexpr uint32_t device_flags = IBV_DEVICE_UD_AV_PORT_ENFORCE | IBV_DEVICE_CURR_QP_STATE_MOD |
                                  IBV_DEVICE_PORT_ACTIVE_EVENT | IBV_DEVICE_SYS_IMAGE_GUID |
                                  IBV_DEVICE_RC_RNR_NAK_GEN;

constexpr uint32_t port_cap_cm_sup = 1u << 16;
constexpr uint32_t port_cap_ip_based_gids = 1u << 26;
constexpr uint8_t phys_disabled = 3;
constexpr uint8_t phys_link_up = 5;
constexpr uint8_t width_1x = 1;
constexpr uint8_t speed_qdr = 4; // 10 Gb/s a lane: what the vmxnet3 beside it says

} // namespace

uint8_t gid_type_of(const PvrdmaConfig& config)
{
    return config.roce_version == 1 ? gid_type_v1 : gid_type_v2;
}

DeviceCaps capabilities_of(const PvrdmaConfig& config, const RdmaNicInfo& nic,
                           const Backend& backend)
{
    uint64_t guid = config.node_guid ? std::byteswap(config.node_guid) : eui64_of(nic.mac);
    DeviceCaps caps{};
    caps.fw_ver = firmware_version;
    caps.node_guid = guid;
    caps.sys_image_guid = guid;
    caps.max_mr_size = config.max_mr_size;
    caps.page_size_cap = page_size;
    caps.vendor_id = pci_vendor_vmware;
    caps.vendor_part_id = pci_device_pvrdma;
    caps.hw_ver = config.version;
    caps.max_qp = config.max_qp;
    caps.max_qp_wr = config.max_qp_wr;
    caps.device_cap_flags = device_flags;
    caps.max_sge = config.max_sge;
    caps.max_sge_rd = config.max_sge;
    caps.max_cq = config.max_cq;
    caps.max_cqe = config.max_cqe;
    caps.max_mr = config.max_mr;
    caps.max_pd = config.max_pd;
    caps.max_qp_rd_atom = config.max_qp_rd_atom;
    caps.max_res_rd_atom = config.max_qp_rd_atom * config.max_qp;
    caps.max_qp_init_rd_atom = config.max_qp_init_rd_atom;
    caps.max_ah = config.max_ah;
    caps.max_srq = config.max_srq;
    caps.max_srq_wr = config.max_srq_wr;
    caps.max_srq_sge = config.max_srq_sge;
    caps.max_uar = config.max_uar;
    caps.gid_tbl_len = config.gid_tbl_len;
    caps.max_pkeys = 1;
    caps.local_ca_ack_delay = ca_ack_delay;
    caps.phys_port_cnt = 1;
    caps.mode = mode_roce;
    Features features = backend.features();
    if (features.atomics) {
        caps.atomic_ops = atomic_op_comp_swap | atomic_op_fetch_add;
    }
    if (features.fast_registration) {
        caps.bmme_flags = bmme_local_inv | bmme_remote_inv | bmme_fast_reg_wr;
        caps.max_fast_reg_page_list_len = max_fast_reg_page_list;
    }
    caps.gid_types = gid_type_of(config);
    return caps;
}

PortAttr port_attributes_of(const PvrdmaConfig& config, const RdmaNicInfo& nic,
                            const Backend& backend)
{
    PortAttr attrs{};
    attrs.state = nic.link_up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    attrs.max_mtu = IBV_MTU_4096;
    attrs.active_mtu = active_mtu(nic.mtu);
    attrs.gid_tbl_len = config.gid_tbl_len;
    attrs.port_cap_flags = port_cap_cm_sup | port_cap_ip_based_gids;
    attrs.max_msg_sz = max_message_size;
    attrs.pkey_tbl_len = 1;
    attrs.max_vl_num = 1;
    attrs.active_width = width_1x;
    attrs.active_speed = speed_qdr;
    attrs.phys_state = nic.link_up ? phys_link_up : phys_disabled;
    if (auto host = backend.host_port()) {
        attrs.state = host->state;
        attrs.max_mtu = host->max_mtu;
        attrs.active_mtu = host->active_mtu;
        attrs.max_msg_sz = host->max_msg_sz;
        attrs.active_width = host->active_width;
        attrs.active_speed = host->active_speed;
        attrs.phys_state = host->phys_state;
    }
    return attrs;
}

} // namespace rdma::pvrdma
