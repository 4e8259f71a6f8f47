// SPDX-License-Identifier: GPL-2.0-or-later
//
// Features and doorbells; what becomes of the device as a whole.
#include "virtio_rdma_device.h"

namespace rdma {

using namespace virtio;

namespace {

constexpr uint32_t first_context = 1; // after the driver's own
constexpr unsigned doorbell_size = 4; // bytes
constexpr unsigned doorbell_kind_shift = 30;
constexpr uint32_t doorbell_number_mask = 0xffffff;
constexpr uint32_t doorbell_reserved = 0x3f000000;

} // namespace

VirtioRdmaDevice::VirtioRdmaDevice(const VirtioRdmaConfig& config, DeviceHost& host,
                                   GuestMemory& memory, Backend& backend, Statistics& stats)
    : _config(config), _host(host), _memory(memory), _backend(backend), _stats(stats),
      _contexts(config.max_contexts, first_context), _pds(config.max_pd), _cqs(config.max_cq),
      _srqs(config.max_srq), _gids(config.gid_tbl_len)
{
    _events.reserve(1); // DEVICE_FATAL, when there is no memory any more
}

void VirtioRdmaDevice::drop_objects()
{
    _backend.reset();
    _contexts.clear();
    _pds.clear();
    _mrs.clear();
    _cqs.clear();
    _srqs.clear();
    _qps.clear();
    _qp_ids.clear();
    _gids.assign(_gids.size(), false);
    _num_pages = 0;
    _events.clear();
    _pending_device_events = 0;
    for (auto& events : _completion_events) {
        events.clear();
    }
    _waiting.clear();
    _waiting_is_loaded = false;
    _replies.clear();
}

// [virtio-rdma DEV-19]
void VirtioRdmaDevice::reset()
{
    drop_objects();
    _features = 0;
    _event_queues = 0;
    _has_failed = false;
    _guid.reset();
}

void VirtioRdmaDevice::fail()
{
    auto waiting = std::move(_waiting);
    drop_objects();
    async_event(IBV_EVENT_DEVICE_FATAL, 0); // takes no memory
    // Commands that wait are answered all the same, if there is memory for it.
    virtio_rdma_reply failed{VIRTIO_RDMA_ERR_DEVICE, 0};
    std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(&failed), sizeof(failed));
    for (const auto& [qp, commands] : waiting) {
        add_reply(commands.first, bytes);
        for (const Deferred& command : commands.behind) {
            add_reply(command, bytes);
        }
    }
}

// [virtio-rdma DEV-4]
uint64_t VirtioRdmaDevice::offered_features() const
{
    Features features = _backend.features();
    uint64_t offered = 0;
    if (features.atomics) {
        offered |= 1u << VIRTIO_RDMA_F_ATOMICS;
    }
    if (features.fast_registration) {
        offered |= 1u << VIRTIO_RDMA_F_FAST_REGISTRATION;
    }
    if (_config.max_srq > 0) {
        offered |= 1u << VIRTIO_RDMA_F_SRQ;
    }
    return offered;
}

ObjectCounts VirtioRdmaDevice::object_counts() const
{
    return {.contexts = _contexts.size(),
            .pds = _pds.size(),
            .mrs = _mrs.size(),
            .cqs = _cqs.size(),
            .srqs = _srqs.size(),
            .qps = _qps.size()};
}

void VirtioRdmaDevice::bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned size)
{
    // [virtio-rdma DEV-14]
    if (bar != VIRTIO_RDMA_DOORBELLS || size != doorbell_size ||
        offset % VIRTIO_RDMA_PAGE_SIZE != 0 || offset / VIRTIO_RDMA_PAGE_SIZE >= _config.max_contexts) {
        guest_error(_stats.guest_register_errors, "write of {} bytes at {:#x} of region {}", size,
                    offset, bar);
        return;
    }
    doorbell(static_cast<uint32_t>(offset / VIRTIO_RDMA_PAGE_SIZE), value);
}

void VirtioRdmaDevice::doorbell(uint32_t context, uint32_t value)
{
    uint32_t number = value & doorbell_number_mask;
    // [virtio-rdma CTL-11] [virtio-rdma DEV-14] [virtio-rdma QUE-9] [virtio-rdma SEC-3]
    if (is_context(context) && (value & doorbell_reserved) == 0) {
        if (value >> doorbell_kind_shift == VIRTIO_RDMA_DOORBELL_SRQ) {
            auto id = _srqs.id_of(number);
            if (id && _srqs.find(*id)->context == context) {
                _backend.srq_doorbell(*id);
                return;
            }
        } else if (auto id = find_qp(number); id && _qps.find(*id)->context == context) {
            switch (value >> doorbell_kind_shift) {
            case VIRTIO_RDMA_DOORBELL_SQ:
                _backend.send_doorbell(*id);
                return;
            case VIRTIO_RDMA_DOORBELL_RQ:
                _backend.recv_doorbell(*id);
                return;
            default:
                break;
            }
        }
    }
    guest_error(_stats.guest_doorbell_errors, "doorbell {:#x} of context {}: no such queue there",
                value, context);
}

// [virtio-rdma MIG-2]
// MIG-2: each queue may have entries that no doorbell has told of.
void VirtioRdmaDevice::start()
{
    _srqs.for_each([&](uint32_t id, Srq&) { _backend.srq_doorbell(id); });
    _qps.for_each([&](uint32_t id, Qp& qp) {
        if (qp.sq.has_failed() || qp.rq.has_failed()) {
            _backend.fail_qp(id);
        }
        _backend.send_doorbell(id);
        _backend.recv_doorbell(id);
    });
    set_event_queues(_event_queues);
    if (std::exchange(_waiting_is_loaded, false)) {
        repeat_loaded();
    }
    if (!_replies.empty()) {
        _host.raise_irq(VIRTIO_RDMA_VQ_CONTROL);
    }
}

} // namespace rdma
