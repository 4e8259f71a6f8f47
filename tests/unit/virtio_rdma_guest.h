// SPDX-License-Identifier: GPL-2.0-or-later
//
// A guest of a whole virtio RDMA device behind its C boundary, engine included: RAM, a driver
// that does as docs/virtio-rdma has it, and a host whose network hands each frame to the peer at
// once. Time stands still unless the test moves it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "backend.h"
#include "ram.h"
#include "virtio_rdma.h"
#include "virtio_rdma_abi.h"
#include "../virtio_requests.h"

namespace rdma::test {

class VirtioGuest;

// A queue that the driver posts to.
struct GuestWorkQueue {
    uint64_t state = 0;
    uint64_t first = 0; // its pages lie one behind the other
    uint32_t entry_size = 64;
    uint32_t entries = 64;
    uint32_t kind = VIRTIO_RDMA_DOORBELL_SQ;
    uint32_t number = 0;
    uint32_t context = 0;
    uint32_t decided = 0; // the producer for which ringing has been decided last

    uint32_t pages() const { return (entry_size * entries + 4095) / 4096; }
};

struct GuestCq {
    uint32_t number = 0;
    uint64_t state = 0;
    uint64_t first = 0;
    uint32_t entries = 64;
    uint32_t taken = 0;
    uint32_t sequence = 0;
};

struct GuestQp {
    uint32_t qpn = 0;
    uint8_t type = VIRTIO_RDMA_QP_RC;
    GuestWorkQueue sq;
    GuestWorkQueue rq;
};

struct GuestMr {
    uint32_t number = 0;
    uint32_t lkey = 0;
    uint32_t rkey = 0;
};

class VirtioGuest {
public:
    static constexpr uint32_t all_queues = 0xffff;

    // number: the last part of its IP and MAC addresses.
    explicit VirtioGuest(uint8_t number, const VirtioRdmaConfig& config = defaults(),
                         uint64_t ram_size = 64 << 20)
        : ram(ram_size), _number(number)
    {
        char* error = nullptr;
        RdmaHostOps host = ops();
        _device = virtio_rdma_device_create(&config, nullptr, &host, this, &error);
        if (!_device) {
            std::string message = error;
            std::free(error);
            throw std::runtime_error(message);
        }
        RdmaMemoryRegion region = ram.region();
        rdma_device_set_memory(_device, &region, 1);
    }
    ~VirtioGuest() { rdma_device_destroy(_device); }
    VirtioGuest(const VirtioGuest&) = delete;
    VirtioGuest& operator=(const VirtioGuest&) = delete;

    static VirtioRdmaConfig defaults()
    {
        VirtioRdmaConfig config;
        virtio_rdma_config_default(&config);
        return config;
    }
    // Frames of each go to the other.
    static void join(VirtioGuest& a, VirtioGuest& b)
    {
        a._peer = &b;
        b._peer = &a;
    }

    // Features, virtqueues and one GID: 10.0.0.number.
    void bring_up()
    {
        rdma_device_set_features(_device, rdma_device_offered_features(_device));
        rdma_device_set_event_queues(_device, all_queues);
        require(add_gid(0, _number), "ADD_GID");
    }

    // Commands. Bytes of the request and the room for the reply are as the command has them.
    std::vector<uint8_t> send(std::span<const uint8_t> request, size_t room)
    {
        std::vector<uint8_t> reply(room);
        int64_t written =
            rdma_device_command(_device, ++_tag, request.data(), request.size(), reply.data(), room);
        if (written == -EINPROGRESS) {
            return {};
        }
        reply.resize(static_cast<size_t>(written));
        return reply;
    }
    template <typename Reply = virtio_rdma_reply, typename Request>
    std::pair<uint32_t, Reply> ask(const Request& request, std::span<const uint64_t> pages = {})
    {
        auto bytes = send(bytes_of(request, pages), sizeof(Reply));
        Reply reply{};
        std::memcpy(&reply, bytes.data(), bytes.size());
        virtio_rdma_reply header;
        std::memcpy(&header, &reply, sizeof(header));
        return {header.status, reply};
    }
    // A command of the header alone.
    uint32_t simple(uint32_t command, uint32_t object = 0)
    {
        return ask(virtio_rdma_request{command, object}).first;
    }
    static void require(uint32_t status, const char* what)
    {
        if (status != VIRTIO_RDMA_OK) {
            throw std::runtime_error(std::string(what) + ": status " + std::to_string(status));
        }
    }
    // The object that a command has made.
    template <typename Request>
    uint32_t make(const char* what, const Request& request, std::span<const uint64_t> pages = {})
    {
        auto [status, reply] = ask(request, pages);
        require(status, what);
        return reply.object;
    }

    virtio_rdma_limits limits()
    {
        auto [status, reply] =
            ask<virtio_rdma_limits>(virtio_rdma_request{VIRTIO_RDMA_QUERY_DEVICE, 0});
        require(status, "QUERY_DEVICE");
        return reply;
    }
    uint32_t add_gid(uint32_t index, uint8_t number, uint16_t vlan = VIRTIO_RDMA_NO_VLAN)
    {
        virtio_rdma_add_gid request{{VIRTIO_RDMA_ADD_GID, index}, {}, {}, vlan};
        std::ranges::copy(gid_of(number).raw, request.gid);
        std::ranges::copy(mac_of(number), request.mac);
        return ask(request).first;
    }
    uint32_t create_pd()
    {
        return make("CREATE_PD", virtio_rdma_request{VIRTIO_RDMA_CREATE_PD, 0});
    }
    static std::vector<uint64_t> page_list(uint64_t first, uint64_t count)
    {
        std::vector<uint64_t> list(count);
        for (uint64_t i = 0; i < count; ++i) {
            list[i] = first + i * page_size;
        }
        return list;
    }
    // size bytes of RAM at gpa, which is also their IOVA.
    GuestMr register_ram(uint32_t pd, uint64_t gpa, uint64_t size,
                         uint32_t access = VIRTIO_RDMA_LOCAL_WRITE | VIRTIO_RDMA_REMOTE_WRITE |
                                           VIRTIO_RDMA_REMOTE_READ | VIRTIO_RDMA_REMOTE_ATOMIC)
    {
        virtio_rdma_create_mr request{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_PAGES, 12, 0,
                                      access, gpa, size};
        return create_mr(request, page_list(gpa, size / page_size));
    }
    GuestMr create_mr(const virtio_rdma_create_mr& request, std::span<const uint64_t> pages = {})
    {
        auto [status, reply] = ask<virtio_rdma_create_mr_reply>(request, pages);
        require(status, "CREATE_MR");
        return {reply.reply.object, reply.lkey, reply.rkey};
    }
    GuestCq create_cq(uint32_t entries = 64, uint32_t vector = 0)
    {
        uint32_t pages = (entries * 64 + 4095) / 4096;
        GuestCq cq{0, ram.pages(1), ram.pages(pages), entries};
        virtio_rdma_create_cq request{{VIRTIO_RDMA_CREATE_CQ, vector}, entries, 0, cq.state};
        cq.number = make("CREATE_CQ", request, page_list(cq.first, pages));
        return cq;
    }
    GuestWorkQueue create_srq(uint32_t pd, uint32_t entries = 64, uint32_t entry_size = 32,
                              uint32_t context = 0)
    {
        GuestWorkQueue srq = queue(VIRTIO_RDMA_DOORBELL_SRQ, entries, entry_size, context);
        virtio_rdma_create_srq request{{VIRTIO_RDMA_CREATE_SRQ, pd},
                                       context,
                                       static_cast<uint16_t>(entries),
                                       static_cast<uint16_t>(entry_size),
                                       srq.state};
        srq.number = make("CREATE_SRQ", request, page_list(srq.first, srq.pages()));
        return srq;
    }
    struct QpShape {
        uint8_t type = VIRTIO_RDMA_QP_RC;
        uint8_t flags = 0;
        uint32_t context = 0;
        uint32_t sq_entries = 64;
        uint32_t sq_entry_size = 64;
        uint32_t rq_entries = 64;
        uint32_t rq_entry_size = 32;
        uint32_t srq = 0; // with VIRTIO_RDMA_QP_USES_SRQ
    };
    GuestQp create_qp(uint32_t pd, const GuestCq& cq, const QpShape& shape)
    {
        return create_qp(pd, cq, cq, shape);
    }
    GuestQp create_qp(uint32_t pd, const GuestCq& cq) { return create_qp(pd, cq, cq, {}); }
    GuestQp create_qp(uint32_t pd, const GuestCq& send_cq, const GuestCq& recv_cq,
                      const QpShape& shape)
    {
        bool has_rq = !(shape.flags & VIRTIO_RDMA_QP_USES_SRQ);
        GuestQp qp{.type = shape.type};
        qp.sq = queue(VIRTIO_RDMA_DOORBELL_SQ, shape.sq_entries, shape.sq_entry_size, shape.context);
        auto pages = page_list(qp.sq.first, qp.sq.pages());
        if (has_rq) {
            qp.rq = queue(VIRTIO_RDMA_DOORBELL_RQ, shape.rq_entries, shape.rq_entry_size,
                          shape.context);
            auto more = page_list(qp.rq.first, qp.rq.pages());
            pages.insert(pages.end(), more.begin(), more.end());
        }
        virtio_rdma_create_qp request{
            .request = {VIRTIO_RDMA_CREATE_QP, pd},
            .context = shape.context,
            .type = shape.type,
            .flags = shape.flags,
            .reserved = 0,
            .send_cq = send_cq.number,
            .recv_cq = recv_cq.number,
            .srq = shape.srq,
            .sq_entries = static_cast<uint16_t>(shape.sq_entries),
            .sq_entry_size = static_cast<uint16_t>(shape.sq_entry_size),
            .rq_entries = static_cast<uint16_t>(has_rq ? shape.rq_entries : 0),
            .rq_entry_size = static_cast<uint16_t>(has_rq ? shape.rq_entry_size : 0),
            .reserved2 = 0,
            .sq_state = qp.sq.state,
            .rq_state = has_rq ? qp.rq.state : 0};
        qp.qpn = qp.sq.number = qp.rq.number = make("CREATE_QP", request, pages);
        return qp;
    }

    uint32_t modify(const GuestQp& qp, const virtio_rdma_qp_attributes& attributes)
    {
        return ask(virtio_rdma_modify_qp{{VIRTIO_RDMA_MODIFY_QP, qp.qpn}, attributes}).first;
    }
    uint32_t to_state(const GuestQp& qp, uint8_t state)
    {
        return modify(qp, {.mask = VIRTIO_RDMA_ATTR_STATE, .state = state});
    }
    virtio_rdma_qp_attributes query(const GuestQp& qp)
    {
        auto [status, reply] = ask<virtio_rdma_query_qp_reply>(
            virtio_rdma_request{VIRTIO_RDMA_QUERY_QP, qp.qpn});
        require(status, "QUERY_QP");
        return reply.attributes;
    }
    // Brings an RC queue pair up to that state, towards one of the guest of that number.
    void connect(const GuestQp& qp, uint8_t peer, uint32_t peer_qpn,
                 uint8_t state = VIRTIO_RDMA_QP_RTS)
    {
        virtio_rdma_qp_attributes a{};
        auto go = [&](uint8_t to, uint32_t mask) {
            if (to <= state) {
                a.state = to;
                a.mask = VIRTIO_RDMA_ATTR_STATE | mask;
                require(modify(qp, a), "MODIFY_QP");
            }
        };
        a.access = VIRTIO_RDMA_REMOTE_WRITE | VIRTIO_RDMA_REMOTE_READ | VIRTIO_RDMA_REMOTE_ATOMIC;
        a.path_mtu = VIRTIO_RDMA_MTU_1024;
        a.dest_qpn = peer_qpn;
        a.max_rd_atomic = a.max_dest_rd_atomic = 16;
        a.min_rnr_timer = 1;
        a.timeout = 14;
        a.retry_count = a.rnr_retry = 7;
        a.av = address_of(peer);
        go(VIRTIO_RDMA_QP_INIT, VIRTIO_RDMA_ATTR_ACCESS);
        go(VIRTIO_RDMA_QP_RTR,
           VIRTIO_RDMA_ATTR_AV | VIRTIO_RDMA_ATTR_PATH_MTU | VIRTIO_RDMA_ATTR_DEST_QPN |
               VIRTIO_RDMA_ATTR_RQ_PSN | VIRTIO_RDMA_ATTR_MAX_DEST_RD_ATOMIC |
               VIRTIO_RDMA_ATTR_MIN_RNR_TIMER);
        go(VIRTIO_RDMA_QP_RTS, VIRTIO_RDMA_ATTR_SQ_PSN | VIRTIO_RDMA_ATTR_TIMEOUT |
                                   VIRTIO_RDMA_ATTR_RETRY_COUNT | VIRTIO_RDMA_ATTR_RNR_RETRY |
                                   VIRTIO_RDMA_ATTR_MAX_RD_ATOMIC);
    }
    // The same for a UD or GSI queue pair.
    void open(const GuestQp& qp, uint32_t qkey)
    {
        virtio_rdma_qp_attributes a{};
        a.qkey = qkey;
        auto go = [&](uint8_t to, uint32_t mask) {
            a.state = to;
            a.mask = VIRTIO_RDMA_ATTR_STATE | mask;
            require(modify(qp, a), "MODIFY_QP");
        };
        go(VIRTIO_RDMA_QP_INIT, VIRTIO_RDMA_ATTR_QKEY);
        go(VIRTIO_RDMA_QP_RTR, 0);
        go(VIRTIO_RDMA_QP_RTS, VIRTIO_RDMA_ATTR_SQ_PSN);
    }

    // Queues.
    virtio_rdma_queue_state& state(const GuestWorkQueue& queue)
    {
        return ram.at<virtio_rdma_queue_state>(queue.state);
    }
    virtio_rdma_cq_state& state(const GuestCq& cq) { return ram.at<virtio_rdma_cq_state>(cq.state); }
    // The entry of an index, whose bytes the test writes.
    std::span<std::byte> entry(const GuestWorkQueue& queue, uint32_t index)
    {
        return ram.bytes(queue.first + uint64_t{index % queue.entries} * queue.entry_size,
                         queue.entry_size);
    }
    // An entry of these fields and SGEs, or bytes, behind those posted. No doorbell.
    template <typename Fields>
    void post(GuestWorkQueue& queue, const Fields& fields, std::span<const std::byte> body)
    {
        auto slot = entry(queue, state(queue).producer);
        std::ranges::fill(slot, std::byte{0xee});
        std::memcpy(slot.data(), &fields, sizeof(fields));
        std::ranges::copy(body, slot.begin() + sizeof(fields));
        ++state(queue).producer;
    }
    template <typename Fields>
    void post(GuestWorkQueue& queue, const Fields& fields,
              std::initializer_list<virtio_rdma_sge> sges = {})
    {
        post(queue, fields, std::as_bytes(std::span(sges.begin(), sges.size())));
    }
    void post_receive(GuestWorkQueue& queue, uint64_t wr_id,
                      std::initializer_list<virtio_rdma_sge> sges)
    {
        post(queue, virtio_rdma_rq_entry{wr_id, static_cast<uint16_t>(sges.size()), {}}, sges);
        kick(queue);
    }
    // Rings where the device wants it (QUE-4). Whether it has.
    bool kick(GuestWorkQueue& queue)
    {
        uint32_t now_posted = state(queue).producer;
        uint32_t old = std::exchange(queue.decided, now_posted);
        if (now_posted - 1 - state(queue).doorbell >= now_posted - old) {
            return false;
        }
        ring(queue);
        return true;
    }
    void ring(const GuestWorkQueue& queue) { ring(queue.context, VIRTIO_RDMA_DOORBELL(queue.kind, queue.number)); }
    void ring(uint32_t context, uint32_t value)
    {
        ++doorbells;
        rdma_device_bar_write(_device, VIRTIO_RDMA_DOORBELLS,
                              uint64_t{context} * VIRTIO_RDMA_PAGE_SIZE, value, 4);
    }
    // After a transition to RESET (REQ-2).
    void restart(GuestWorkQueue& queue)
    {
        state(queue).producer = 0;
        queue.decided = 0;
    }

    // The next completion, if there is one.
    std::optional<virtio_rdma_cq_entry> poll(GuestCq& cq)
    {
        const auto& slot =
            ram.at<virtio_rdma_cq_entry>(cq.first + uint64_t{cq.taken % cq.entries} * 64);
        if (slot.phase != ((cq.taken / cq.entries + 1) & 1)) {
            return std::nullopt;
        }
        virtio_rdma_cq_entry taken = slot;
        state(cq).consumer = ++cq.taken;
        return taken;
    }
    // The next one, which there must be.
    virtio_rdma_cq_entry take(GuestCq& cq)
    {
        auto entry = poll(cq);
        if (!entry) {
            throw std::runtime_error("there is no completion");
        }
        return *entry;
    }
    void arm(GuestCq& cq, uint32_t kind = VIRTIO_RDMA_ARM_NEXT)
    {
        state(cq).arm = ++cq.sequence << 2 | kind;
    }

    // Events.
    std::optional<virtio_rdma_event> event()
    {
        return take_event<virtio_rdma_event>(VIRTIO_RDMA_VQ_EVENT);
    }
    // The number of a CQ.
    std::optional<uint32_t> completion_event(unsigned vector = 0)
    {
        auto event =
            take_event<virtio_rdma_completion_event>(VIRTIO_RDMA_VQ_COMPLETION + vector);
        return event ? std::optional(event->cq) : std::nullopt;
    }

    virtio_rdma_av address_of(uint8_t peer, uint16_t sgid_index = 0)
    {
        virtio_rdma_av av{};
        std::ranges::copy(gid_of(peer).raw, av.dgid);
        av.sgid_index = sgid_index;
        av.hop_limit = 64;
        std::ranges::copy(mac_of(peer), av.dmac);
        return av;
    }

    // Lets the device's timer fire at its deadline, if it has one.
    bool run_timer()
    {
        if (_deadline == INT64_MAX) {
            return false;
        }
        now = std::max(now, std::exchange(_deadline, INT64_MAX));
        rdma_device_timer(_device);
        return true;
    }
    uint64_t statistic(const std::string& name)
    {
        std::map<std::string, uint64_t> values;
        rdma_device_statistics(
            _device,
            [](void* opaque, const char* key, uint64_t value) {
                (*static_cast<std::map<std::string, uint64_t>*>(opaque))[key] = value;
            },
            &values);
        return values.at(name);
    }

    // Migration.
    void stop() { rdma_device_stop(_device, true); }
    void start() { rdma_device_start(_device); }
    std::vector<uint8_t> save()
    {
        std::vector<uint8_t> saved;
        auto put = [](void* opaque, const uint8_t* bytes, size_t size) {
            static_cast<std::vector<uint8_t>*>(opaque)->assign(bytes, bytes + size);
        };
        char* error = nullptr;
        if (!rdma_device_save(_device, put, &saved, &error)) {
            std::string message = error;
            std::free(error);
            throw std::runtime_error(message);
        }
        return saved;
    }
    // Nothing, or what is wrong with the state.
    std::string load(std::span<const uint8_t> saved)
    {
        char* error = nullptr;
        if (rdma_device_load(_device, saved.data(), saved.size(), &error)) {
            return {};
        }
        std::string message = error;
        std::free(error);
        return message;
    }

    RdmaDevice* handle() { return _device; }

    static Mac mac_of(uint8_t number) { return {0x52, 0x54, 0, 0, 0, number}; }
    static ibv_gid gid_of(uint8_t number)
    {
        ibv_gid gid{};
        gid.raw[10] = gid.raw[11] = 0xff;
        gid.raw[12] = 10;
        gid.raw[15] = number;
        return gid;
    }

    Ram ram;
    std::map<unsigned, unsigned> irqs; // raised, by queue
    unsigned doorbells = 0;            // rung
    uint32_t card_mtu = 1500;          // 0: the host does not know it
    bool drops_frames = false;         // on their way to the peer
    int64_t now = 0;                   // nanoseconds

private:
    GuestWorkQueue queue(uint32_t kind, uint32_t entries, uint32_t entry_size, uint32_t context)
    {
        GuestWorkQueue queue{.entry_size = entry_size, .entries = entries, .kind = kind,
                             .context = context};
        queue.state = ram.pages(1);
        queue.first = ram.pages(queue.pages());
        return queue;
    }
    template <typename Event>
    std::optional<Event> take_event(unsigned number)
    {
        std::array<uint8_t, RDMA_MAX_REPLY> bytes;
        size_t size = rdma_device_take_event(_device, number, bytes.data());
        if (size != sizeof(Event)) {
            return std::nullopt;
        }
        Event event;
        std::memcpy(&event, bytes.data(), sizeof(event));
        return event;
    }

    static VirtioGuest& self(void* opaque) { return *static_cast<VirtioGuest*>(opaque); }
    static RdmaHostOps ops()
    {
        return {
            .now = [](void* opaque) { return self(opaque).now; },
            .set_timer = [](void* opaque, int64_t deadline) { self(opaque)._deadline = deadline; },
            .send_packet =
                [](void* opaque, const uint8_t* frame, size_t size) {
                    VirtioGuest& guest = self(opaque);
                    if (guest._peer && !guest.drops_frames) {
                        rdma_device_receive(guest._peer->_device, frame, size);
                    }
                    return true;
                },
            .raise_irq = [](void* opaque, unsigned vector) { ++self(opaque).irqs[vector]; },
            .set_intx = [](void*, bool) {},
            .mark_dirty = [](void*, uint64_t, uint64_t) {},
            .nic_info =
                [](void* opaque, RdmaNicInfo* info) {
                    std::ranges::copy(mac_of(self(opaque)._number), info->mac);
                    info->mtu = self(opaque).card_mtu;
                    info->link_up = true;
                },
            .poll_idle = [](void*) {},
            .poll_end = [](void*) {},
            .log = [](void*, int, const char*) {},
        };
    }

    uint8_t _number;
    RdmaDevice* _device = nullptr;
    VirtioGuest* _peer = nullptr;
    int64_t _deadline = INT64_MAX;
    uint64_t _tag = 0;
};

} // namespace rdma::test
