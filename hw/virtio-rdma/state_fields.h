// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fields of the virtio RDMA device's objects in a state stream (migration/archive.h has the
// notation). What can be computed from others is not among them.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "archive.h"
#include "virtio_rdma_device.h"

namespace rdma {

// What there is once of a device.
struct VirtioRdmaDevice::DeviceState {
    struct Command {
        uint32_t qp = 0; // id
        Waiting waiting{};
    };

    uint64_t features = 0;
    uint32_t event_queues = 0;
    bool has_failed = false;
    bool has_guid = false;
    uint64_t guid = 0;
    uint32_t next_pd = 0; // numbers that come next, if they are free
    uint32_t next_cq = 0;
    uint32_t next_srq = 0;
    std::vector<uint32_t> contexts;
    std::vector<uint32_t> gids; // indices
    std::vector<Event> events;
    std::vector<uint32_t> completion_events; // ids of CQs; those of one vector in their order
    std::vector<Command> waiting;
    std::vector<Reply> replies;
};

namespace virtio {

// Longest lists: what a guest can have brought about.
inline constexpr size_t max_state_contexts = 65536;
inline constexpr size_t max_state_gids = 256;
inline constexpr size_t max_state_events = 1u << 24;
inline constexpr size_t max_state_commands = 65536;

// Most pages of a queue: those of the largest CQ there can be.
inline constexpr uint32_t max_queue_pages =
    EntryArray::pages_for(sizeof(virtio_rdma_cq_entry), VIRTIO_RDMA_MAX_CQE);
static_assert(max_queue_pages >= EntryArray::pages_for(page_size, VIRTIO_RDMA_MAX_WR));

template <typename Archive>
void describe(Archive& a, EntryArray& array)
{
    uint32_t entry_size = array.entry_size();
    uint32_t entries = array.entries();
    std::vector<uint64_t> pages = array.pages();
    a.u32("entry_size", entry_size, page_size);
    a.u32("entries", entries, VIRTIO_RDMA_MAX_CQE);
    a.pages("pages", pages, std::min(EntryArray::pages_for(entry_size, entries), max_queue_pages));
    if constexpr (Archive::is_reader) {
        array = EntryArray(std::move(pages), entry_size, entries);
    }
}

template <typename Archive>
void describe(Archive& a, WorkQueue& queue)
{
    uint64_t state = queue.state();
    EntryArray array = queue.array();
    uint32_t consumer = queue.consumer();
    bool failed = queue.has_failed();
    a.u64("state", state);
    describe(a, array);
    a.u32("consumer", consumer);
    a.flag("failed", failed);
    if constexpr (Archive::is_reader) {
        queue = WorkQueue(state, std::move(array));
        queue.restore(consumer, failed);
    }
}

template <typename Archive>
void describe(Archive& a, CompletionQueue& queue)
{
    uint64_t state = queue.state();
    EntryArray array = queue.array();
    uint32_t producer = queue.producer();
    uint32_t notified = queue.notified();
    bool failed = queue.has_failed();
    a.u64("state", state);
    describe(a, array);
    a.u32("producer", producer);
    a.u32("notified", notified);
    a.flag("failed", failed);
    if constexpr (Archive::is_reader) {
        queue = CompletionQueue(state, std::move(array));
        queue.restore(producer, notified, failed);
    }
}

} // namespace virtio

template <typename Archive>
void describe(Archive& a, VirtioRdmaDevice::Deferred& command)
{
    // No command that waits is longer: MODIFY_QP is the longest of a queue pair.
    a.u64("tag", command.tag);
    a.u32("room", command.room);
    a.blob("request", command.request, sizeof(virtio_rdma_modify_qp));
}

template <typename Archive>
void describe(Archive& a, VirtioRdmaDevice::DeviceState& device)
{
    using namespace virtio;
    a.u64("features", device.features);
    a.u32("event_queues", device.event_queues);
    a.flag("has_failed", device.has_failed);
    a.present("guid", device.has_guid, [&] { a.u64("guid", device.guid); });
    a.u32("next_pd", device.next_pd);
    a.u32("next_cq", device.next_cq);
    a.u32("next_srq", device.next_srq);
    a.list("contexts", device.contexts, max_state_contexts,
           [](auto& b, uint32_t& number) { b.u32("number", number); });
    a.list("gids", device.gids, max_state_gids,
           [](auto& b, uint32_t& index) { b.u32("index", index); });
    a.list("events", device.events, max_state_events, [](auto& b, VirtioRdmaDevice::Event& event) {
        b.u8("type", event.type, VIRTIO_RDMA_EVENT_LAST_WQE);
        b.u32("object", event.object);
    });
    a.list("completion_events", device.completion_events, max_state_events,
           [](auto& b, uint32_t& cq) { b.u32("cq", cq); });
    a.list("waiting", device.waiting, max_state_commands, [](auto& b, auto& command) {
        b.u32("qp", command.qp);
        b.record("first", [&] { describe(b, command.waiting.first); });
        b.flag("to_reset", command.waiting.modification.to_reset);
        b.flag("has_state", command.waiting.modification.has_state);
        b.flag("sets_mtu", command.waiting.modification.sets_mtu);
        b.list("behind", command.waiting.behind, max_state_commands,
               [](auto& c, VirtioRdmaDevice::Deferred& next) { describe(c, next); });
    });
    a.list("replies", device.replies, max_state_commands, [](auto& b, auto& reply) {
        b.u64("tag", reply.tag);
        b.blob("bytes", reply.bytes, RDMA_MAX_REPLY);
    });
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, VirtioRdmaDevice::Pd& pd)
{
    a.u32("id", id);
    a.u32("number", pd.number);
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, VirtioRdmaDevice::Mr& mr)
{
    a.u32("id", id);
    a.u64("num_pages", mr.num_pages);
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, VirtioRdmaDevice::Cq& cq)
{
    a.u32("id", id);
    a.u32("number", cq.number);
    a.u8("vector", cq.vector, VIRTIO_RDMA_MAX_COMPLETION_QUEUES - 1);
    a.record("queue", [&] { virtio::describe(a, cq.queue); });
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, VirtioRdmaDevice::Srq& srq)
{
    a.u32("id", id);
    a.u32("number", srq.number);
    a.u32("context", srq.context);
    a.record("queue", [&] { virtio::describe(a, srq.queue); });
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, VirtioRdmaDevice::Qp& qp)
{
    a.u32("id", id);
    a.u32("qpn", qp.qpn);
    a.u32("context", qp.context);
    a.u8("type", qp.type);
    a.flag("has_mtu", qp.has_mtu);
    a.record("sq", [&] { virtio::describe(a, qp.sq); });
    a.record("rq", [&] { virtio::describe(a, qp.rq); });
}

} // namespace rdma
