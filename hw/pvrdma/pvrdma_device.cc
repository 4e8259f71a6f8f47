// SPDX-License-Identifier: GPL-2.0-or-later
//
// Registers and doorbells.
#include "pvrdma_device.h"

#include <cerrno>

#include "capabilities.h"

namespace rdma {

using namespace pvrdma;

namespace {

constexpr uint64_t uar_offset_mask = PVRDMA_UAR_PAGE_SIZE - 1;
constexpr unsigned register_size = 4;
// Handle 0 stands for the kernel's own objects.
constexpr uint32_t first_context = 1;

} // namespace

PvrdmaDevice::PvrdmaDevice(const PvrdmaConfig& config, DeviceHost& host, GuestMemory& memory,
                           Backend& backend, Statistics& stats)
    : _config(config), _host(host), _memory(memory), _backend(backend), _stats(stats),
      _interrupts(host),
      // The first doorbell page is the kernel's, each of the others a process's.
      _contexts(config.max_uar, first_context)
{
}

void PvrdmaDevice::reset()
{
    drop_shared_region();
    _dsr_address = 0;
    _error = 0;
    _interrupts.reset();
}

void PvrdmaDevice::fail()
{
    async_event(IBV_EVENT_DEVICE_FATAL, port_number);
    drop_shared_region();
    _error = EIO;
}

ObjectCounts PvrdmaDevice::object_counts() const
{
    return {.contexts = _contexts.size(),
            .pds = _backend.count(ObjectKind::pd),
            .mrs = _backend.count(ObjectKind::mr),
            .cqs = _backend.count(ObjectKind::cq),
            .srqs = _backend.count(ObjectKind::srq),
            .qps = _backend.count(ObjectKind::qp)};
}

uint32_t PvrdmaDevice::bar_read(unsigned bar, uint64_t offset, unsigned size)
{
    if (bar == PVRDMA_BAR_UAR) {
        return 0; // doorbells have nothing to say
    }
    if (bar == PVRDMA_BAR_REGS && size == register_size) {
        return read_register(offset);
    }
    guest_error(_stats.guest_register_errors, "read of {} bytes at {:#x} of BAR {}", size, offset,
                bar);
    return 0;
}

void PvrdmaDevice::bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned size)
{
    if (size != register_size) {
        guest_error(_stats.guest_register_errors, "write of {} bytes at {:#x} of BAR {}", size,
                    offset, bar);
    } else if (bar == PVRDMA_BAR_UAR) {
        doorbell(static_cast<uint32_t>(offset / PVRDMA_UAR_PAGE_SIZE), offset & uar_offset_mask,
                 value);
    } else if (bar == PVRDMA_BAR_REGS) {
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
    case reg_icr:
        return _interrupts.read_cause();
    case reg_imr:
        return _interrupts.mask();
    case reg_mac_low:
    case reg_mac_high: {
        RdmaNicInfo nic = _host.nic_info();
        uint64_t mac = 0;
        for (unsigned i = 0; i < sizeof(nic.mac); ++i) {
            mac |= uint64_t{nic.mac[i]} << (8 * i);
        }
        return static_cast<uint32_t>(offset == reg_mac_low ? mac : mac >> 32);
    }
    default:
        guest_error(_stats.guest_register_errors, "read of unknown register {:#x}", offset);
        return 0;
    }
}

void PvrdmaDevice::write_register(uint64_t offset, uint32_t value)
{
    switch (offset) {
    case reg_dsr_low:
        drop_shared_region();
        _dsr_address = value;
        break;
    case reg_dsr_high:
        drop_shared_region();
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
        _interrupts.set_mask(value);
        break;
    case reg_mac_low:
    case reg_mac_high:
        break; // the NIC's address is the one that counts
    default:
        guest_error(_stats.guest_register_errors, "write to unknown register {:#x}", offset);
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
        guest_error(_stats.guest_register_errors, "unknown control request {}", value);
    }
}

void PvrdmaDevice::doorbell(uint32_t page, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case uar_cq_offset:
        cq_doorbell(page, value);
        break;
    case uar_qp_offset:
        qp_doorbell(value);
        break;
    case uar_srq_offset:
        srq_doorbell(value);
        break;
    default:
        guest_error(_stats.guest_doorbell_errors, "write to unknown doorbell {:#x}", offset);
    }
}

void PvrdmaDevice::qp_doorbell(uint32_t value)
{
    uint32_t handle = value & uar_handle_mask;
    if (!_qps.find(handle) || !(value & (uar_qp_send | uar_qp_recv))) {
        guest_error(_stats.guest_doorbell_errors, "doorbell {:#x}: no such QP or request", value);
        return;
    }
    _idle_polls.progress();
    if (value & uar_qp_send) {
        _backend.send_doorbell(handle);
    }
    if (value & uar_qp_recv) {
        _backend.recv_doorbell(handle);
    }
}

// Every empty poll of a completion queue comes through here: it must find out
// at once that there is nothing to do.
void PvrdmaDevice::cq_doorbell(uint32_t page, uint32_t value)
{
    if (!_late_notifications.empty()) {
        write_late_notifications();
    }
    if (value & uar_cq_poll) {
        // Completions are written as they happen: there is nothing to look for.
        if (_idle_polls.poll(page)) {
            _host.poll_idle();
        }
        return;
    }
    uint32_t handle = value & uar_handle_mask;
    Cq* cq = _cqs.find(handle);
    if (!cq || !(value & (uar_cq_arm | uar_cq_arm_solicited))) {
        guest_error(_stats.guest_doorbell_errors, "doorbell {:#x}: no such CQ or request", value);
        return;
    }
    // A request for any completion is not weakened by one for solicited ones.
    (value & uar_cq_arm ? cq->armed : cq->armed_solicited) = true;
}

void PvrdmaDevice::srq_doorbell(uint32_t value)
{
    uint32_t handle = value & uar_handle_mask;
    if (!_srqs.find(handle) || !(value & uar_srq_recv)) {
        guest_error(_stats.guest_doorbell_errors, "doorbell {:#x}: no such SRQ or request", value);
        return;
    }
    _backend.srq_doorbell(handle);
}

} // namespace rdma
