// SPDX-License-Identifier: GPL-2.0-or-later
//
// Registers, doorbells and bring-up.
#include "pvrdma_device.h"

#include <bit>
#include <cerrno>

#include <fmt/format.h>

#include "page_directory.h"

namespace rdma {

using namespace pvrdma;

namespace {

constexpr uint32_t pci_vendor_vmware = 0x15ad;
constexpr uint32_t pci_device_pvrdma = 0x0820;
constexpr uint64_t uar_page_mask = RDMA_UAR_PAGE_SIZE - 1;
// Pages of an event ring: Linux's driver uses 4. More could not be of use to
// anyone, so no more are read.
constexpr uint32_t max_event_ring_pages = 64;

// EUI-64 of an EUI-48, in network order (RFC 4291, appendix A).
uint64_t eui64_of(const uint8_t mac[6])
{
    const uint8_t bytes[8] = {static_cast<uint8_t>(mac[0] ^ 2), mac[1], mac[2], 0xff, 0xfe,
                              mac[3], mac[4], mac[5]};
    return std::bit_cast<uint64_t>(bytes);
}

} // namespace

PvrdmaDevice::PvrdmaDevice(const PvrdmaConfig& config, DeviceHost& host, GuestMemory& memory,
                           Backend& backend, Statistics& stats)
    : _config(config), _host(host), _memory(memory), _backend(backend), _stats(stats)
{}

void PvrdmaDevice::guest_error(uint64_t& counter, const std::string& what)
{
    ++counter;
    // The first few say what is wrong; a guest cannot fill the log.
    constexpr uint64_t logged = 20;
    if (counter <= logged) {
        _host.log(RDMA_LOG_GUEST_ERROR, what);
    }
}

void PvrdmaDevice::drop_objects()
{
    _backend.reset();
    _qps.clear();
    _cqs.clear();
    _srqs.clear();
    _contexts.clear();
    _ready = false;
    _async_ring = {};
    _cq_notification_ring = {};
}

void PvrdmaDevice::reset()
{
    drop_objects();
    _dsr_address = 0;
    _error = 0;
    _interrupt_cause = 0;
    _interrupt_mask = ~0u;
    _mac[0] = _mac[1] = 0;
    update_intx();
}

uint32_t PvrdmaDevice::bar_read(unsigned bar, uint64_t offset, unsigned)
{
    return bar == RDMA_BAR_REGS ? read_register(offset) : 0;
}

void PvrdmaDevice::bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned)
{
    if (bar == RDMA_BAR_UAR) {
        doorbell(offset & uar_page_mask, value);
    } else if (bar == RDMA_BAR_REGS) {
        write_register(offset, value);
    }
}

uint32_t PvrdmaDevice::read_register(uint64_t offset)
{
    switch (offset) {
    case reg_version:
        return _config.version;
    case reg_err:
        return _error;
    case reg_icr: {
        // Without MSI-X, Linux's handler takes a response only when it is the
        // one cause: show that alone, the others with the next read.
        uint32_t response = _interrupt_cause & (1u << vector_response);
        uint32_t cause = response ? response : _interrupt_cause;
        _interrupt_cause &= ~cause;
        update_intx();
        return cause;
    }
    case reg_imr:
        return _interrupt_mask;
    case reg_mac_low:
    case reg_mac_high: {
        RdmaNicInfo nic = _host.nic_info();
        return offset == reg_mac_low
                   ? static_cast<uint32_t>(nic.mac[0] | nic.mac[1] << 8 | nic.mac[2] << 16) |
                         static_cast<uint32_t>(nic.mac[3]) << 24
                   : static_cast<uint32_t>(nic.mac[4] | nic.mac[5] << 8);
    }
    default:
        guest_error(_stats.guest_register_errors,
                    fmt::format("pvrdma: read of unknown register {:#x}", offset));
        return 0;
    }
}

void PvrdmaDevice::write_register(uint64_t offset, uint32_t value)
{
    switch (offset) {
    case reg_dsr_low:
        drop_objects();
        _dsr_address = value;
        break;
    case reg_dsr_high:
        drop_objects();
        _dsr_address = (_dsr_address & UINT32_MAX) | uint64_t{value} << 32;
        _error = set_up_shared_region() ? 0 : EFAULT;
        break;
    case reg_ctl:
        control(value);
        break;
    case reg_request:
        execute_command();
        break;
    case reg_imr:
        _interrupt_mask = value;
        update_intx();
        break;
    case reg_mac_low:
    case reg_mac_high:
        // The NIC's address is the one that counts.
        break;
    default:
        guest_error(_stats.guest_register_errors,
                    fmt::format("pvrdma: write to unknown register {:#x}", offset));
    }
}

void PvrdmaDevice::control(uint32_t value)
{
    switch (value) {
    case ctl_activate:
    case ctl_unquiesce:
        _error = _ready ? 0 : EINVAL;
        break;
    case ctl_reset:
        reset();
        break;
    default:
        _error = EINVAL;
        guest_error(_stats.guest_register_errors,
                    fmt::format("pvrdma: unknown control request {}", value));
    }
}

bool PvrdmaDevice::set_up_shared_region()
{
    SharedRegion region;
    if (!_memory.read_object(_dsr_address, region) ||
        !_memory.covers(region.cmd_slot_dma, sizeof(CommandSlot), false) ||
        !_memory.covers(region.resp_slot_dma, sizeof(CommandSlot), true) ||
        !set_up_event_ring(region.async_ring, sizeof(EventEntry), _async_ring) ||
        !set_up_event_ring(region.cq_ring, sizeof(uint32_t), _cq_notification_ring)) {
        guest_error(_stats.guest_command_errors,
                    fmt::format("pvrdma: shared region at {:#x}, or what it points at, is not in "
                                "guest memory",
                                _dsr_address));
        return false;
    }
    if (!_memory.write_object(_dsr_address + offsetof(SharedRegion, caps), capabilities())) {
        return false;
    }
    _command_slot = region.cmd_slot_dma;
    _response_slot = region.resp_slot_dma;
    _ready = true;
    return true;
}

// The driver masks indices as if its number of slots were a power of two. With
// 3 pages of entries it is not, and only the slots below its lowest set bit are
// ever used (512 of 1536, 1024 of 3072).
bool PvrdmaDevice::set_up_event_ring(const RingPageInfo& info, uint32_t entry_size,
                                     GuestRing& ring)
{
    if (info.num_pages < 2 || info.num_pages > max_event_ring_pages) {
        return false;
    }
    auto pages = read_page_directory(_memory, info.pdir_dma, info.num_pages);
    if (!pages) {
        return false;
    }
    uint32_t entries = (info.num_pages - 1) * static_cast<uint32_t>(page_size) / entry_size;
    uint32_t slots = entries & (~entries + 1);
    uint64_t state = pages->front() + ring_rx_offset;
    pages->erase(pages->begin());
    ring = GuestRing(state, std::move(*pages), entry_size, slots);
    return true;
}

DeviceCaps PvrdmaDevice::capabilities()
{
    RdmaNicInfo nic = _host.nic_info();
    uint64_t guid = _config.node_guid ? std::byteswap(_config.node_guid) : eui64_of(nic.mac);
    DeviceCaps caps{};
    caps.fw_ver = 1;
    caps.node_guid = guid;
    caps.sys_image_guid = guid;
    caps.max_mr_size = _config.max_mr_size;
    caps.page_size_cap = page_size;
    caps.vendor_id = pci_vendor_vmware;
    caps.vendor_part_id = pci_device_pvrdma;
    caps.hw_ver = _config.version;
    caps.max_qp = _config.max_qp;
    caps.max_qp_wr = _config.max_qp_wr;
    caps.max_sge = _config.max_sge;
    caps.max_sge_rd = _config.max_sge;
    caps.max_cq = _config.max_cq;
    caps.max_cqe = _config.max_cqe;
    caps.max_mr = _config.max_mr;
    caps.max_pd = _config.max_pd;
    caps.max_qp_rd_atom = _config.max_qp_rd_atom;
    caps.max_res_rd_atom = _config.max_qp_rd_atom * _config.max_qp;
    caps.max_qp_init_rd_atom = _config.max_qp_init_rd_atom;
    caps.max_ah = _config.max_ah;
    caps.max_srq = _config.max_srq;
    caps.max_srq_wr = _config.max_srq_wr;
    caps.max_srq_sge = _config.max_srq_sge;
    caps.max_uar = _config.max_uar;
    caps.gid_tbl_len = _config.gid_tbl_len;
    caps.max_pkeys = 1;
    constexpr uint8_t ack_delay = 15; // 134 ms, as Linux's rxe says of itself
    caps.local_ca_ack_delay = ack_delay;
    caps.phys_port_cnt = 1;
    caps.mode = mode_roce;
    caps.atomic_ops = atomic_op_comp_swap | atomic_op_fetch_add;
    caps.bmme_flags = bmme_local_inv | bmme_remote_inv | bmme_fast_reg_wr;
    caps.gid_types = _config.roce_version == 1 ? gid_type_v1 : gid_type_v2;
    caps.max_fast_reg_page_list_len = max_fast_reg_page_list;
    return caps;
}

void PvrdmaDevice::raise(Vector vector)
{
    if (_interrupt_mask & (1u << vector)) {
        return;
    }
    _interrupt_cause |= 1u << vector;
    _host.raise_irq(vector);
    update_intx();
}

void PvrdmaDevice::update_intx()
{
    _host.set_intx((_interrupt_cause & ~_interrupt_mask) != 0);
}

// Every empty poll of a completion queue comes through here: it must find out
// at once that there is nothing to do.
void PvrdmaDevice::doorbell(uint64_t offset, uint32_t value)
{
    if (offset == uar_cq_offset && (value & uar_cq_poll)) {
        return; // completions are written as they happen
    }
    uint32_t handle = value & uar_handle_mask;
    switch (offset) {
    case uar_qp_offset:
        if (value & uar_qp_send) {
            _backend.send_doorbell(handle);
        }
        if (value & uar_qp_recv) {
            _backend.recv_doorbell(handle);
        }
        break;
    case uar_cq_offset:
        if (value & (uar_cq_arm | uar_cq_arm_solicited)) {
            arm(handle, !(value & uar_cq_arm));
        }
        break;
    case uar_srq_offset:
        if (value & uar_srq_recv) {
            _backend.srq_doorbell(handle);
        }
        break;
    default:
        guest_error(_stats.guest_doorbell_errors,
                    fmt::format("pvrdma: write to unknown doorbell {:#x}", offset));
    }
}

void PvrdmaDevice::link_changed()
{
    constexpr uint32_t port = 1;
    async_event(_host.nic_info().link_up ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR, port);
}

} // namespace rdma
