// SPDX-License-Identifier: GPL-2.0-or-later
//
// The virtio RDMA device (docs/virtio-rdma) over a backend. Virtqueues are the host's: it hands
// commands in and takes replies and events out (rdma_device.h).
//
// Files: virtio_rdma_device.cc features and doorbells; control.cc the control queue, contexts,
// PDs, regions and GIDs; queue_commands.cc the commands of CQ, SRQ and QP; data_path.cc requests
// out of the guest's queues and completions into them; events.cc events; device_state.cc saving
// and loading.
#pragma once

#include <fmt/format.h>

#include <array>
#include <expected>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend.h"
#include "device.h"
#include "entries.h"
#include "growing_ring.h"
#include "guest_errors.h"
#include "handle_table.h"
#include "memory_queue.h"
#include "statistics.h"
#include "virtio_rdma.h"
#include "virtio_rdma_abi.h"

namespace rdma {

namespace virtio {

// The GSI queue pair's id in every backend.
inline constexpr uint32_t gsi_id = 1;

// Nothing, or what is wrong: the property by its name and its valid range.
std::expected<void, std::string> check_config(const VirtioRdmaConfig& config);
// The same with no limit above the host device's. Throws std::runtime_error where that cannot be.
VirtioRdmaConfig fit_to_host(const VirtioRdmaConfig& config, const ibv_device_attr& host);
// What the backend must serve.
Limits limits_of(const VirtioRdmaConfig& config);
// Addresses of pages that one MR may have.
uint32_t max_mr_pages(const VirtioRdmaConfig& config);

// Objects that the guest knows by numbers which are given in turn (CTL-9), and the backend by
// its ids.
// [virtio-rdma CTL-9]
template <typename Object>
class NumberedTable {
public:
    explicit NumberedTable(uint32_t most) : _ids(most + 1, 1), _objects(UINT32_MAX)
    {
        _ids.rotate(1);
    }

    // The number of the new object.
    uint32_t insert(uint32_t id, Object&& object)
    {
        uint32_t number = _ids.emplace(id).second;
        object.number = number;
        _objects.insert(id, std::move(object));
        return number;
    }
    // As saved, with its number. False where that or the id is out of range or in use.
    [[nodiscard]] bool restore(uint32_t id, Object&& object)
    {
        uint32_t number = object.number;
        return !_objects.find(id) && _ids.insert(number, uint32_t{id}) &&
               _objects.insert(id, std::move(object));
    }
    void erase(uint32_t id)
    {
        _ids.erase(_objects.find(id)->number);
        _objects.erase(id);
    }
    void clear()
    {
        _ids.clear();
        _objects.clear();
    }
    // Null: there is no such object.
    Object* find(uint32_t id) const { return _objects.find(id); }
    std::optional<uint32_t> id_of(uint32_t number) const
    {
        const uint32_t* id = _ids.find(number);
        return id ? std::optional(*id) : std::nullopt;
    }
    size_t size() const { return _objects.size(); }
    uint32_t next() const { return _ids.next(); }
    [[nodiscard]] bool set_next(uint32_t number)
    {
        if (!_ids.is_id(number)) {
            return false;
        }
        _ids.rotate(number);
        return true;
    }
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        _objects.for_each(fn);
    }

private:
    HandleTable<uint32_t> _ids;    // by number
    HandleTable<Object> _objects; // by id
};

} // namespace virtio

class VirtioRdmaDevice final : public Device {
public:
    // config: one that check_config finds nothing wrong with. backend: created with
    // limits_of(config).
    VirtioRdmaDevice(const VirtioRdmaConfig& config, DeviceHost& host, GuestMemory& memory,
                     Backend& backend, Statistics& stats);

    void reset() override;
    void fail() override;
    // [virtio-rdma DEV-15]
    uint32_t bar_read(unsigned, uint64_t, unsigned) override { return 0; }
    void bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned size) override;
    int64_t command(uint64_t tag, std::span<const uint8_t> request,
                    std::span<uint8_t> reply) override;
    size_t take_reply(uint64_t& tag, std::span<uint8_t> reply) override;
    size_t take_event(unsigned queue, std::span<uint8_t> event) override;
    uint64_t offered_features() const override;
    void set_features(uint64_t features) override { _features = features & offered_features(); }
    void set_event_queues(uint32_t queues) override;
    void link_changed() override {} // the host's configuration tells of it
    ObjectCounts object_counts() const override;
    void start() override;
    std::vector<Property> guest_visible_properties() const override;
    void save(migration::StreamWriter& stream) override;
    migration::Status load(const migration::Section& section) override;
    migration::Status finish_load() override;

    bool pull_send(uint32_t qp, SendRequest& out) override;
    bool pull_recv(uint32_t qp, RecvRequest& out) override;
    bool pull_srq_recv(uint32_t srq, RecvRequest& out) override;
    uint32_t srq_depth(uint32_t srq) override;
    bool complete(uint32_t cq, const Completion& completion) override;
    void modified(uint32_t qp, int error) override;
    void async_event(ibv_event_type type, uint32_t object) override;

    // What the device itself keeps of its objects. pending_events: bits of
    // virtio_rdma_event_type (EVT-3).
    struct Context {
        uint32_t users = 0; // queue pairs and SRQs
    };
    struct Pd {
        uint32_t number = 0;
    };
    struct Mr {
        uint64_t num_pages = 0;
    };
    struct Cq {
        uint32_t number = 0;
        uint32_t vector = 0; // completion event queue
        virtio::CompletionQueue queue;
        uint32_t pending_events = 0;
        bool event_pending = false; // in _completion_events
        size_t num_pages() const { return queue.array().num_pages(); }
    };
    struct Srq {
        uint32_t number = 0;
        uint32_t context = 0;
        virtio::WorkQueue queue;
        virtio::EntryLimits limits;
        uint32_t pending_events = 0;
        size_t num_pages() const { return queue.array().num_pages(); }
    };
    struct Qp {
        uint32_t qpn = 0;
        uint32_t context = 0;
        uint8_t type = 0; // virtio_rdma_qp_type
        virtio::WorkQueue sq;
        virtio::WorkQueue rq; // without entries where an SRQ takes its place
        virtio::EntryLimits send_limits;
        virtio::EntryLimits receive_limits;
        bool has_mtu = false; // path_mtu has been set
        uint32_t pending_events = 0;
        size_t num_pages() const { return sq.array().num_pages() + rq.array().num_pages(); }
    };

    struct Event {
        uint32_t type;
        uint32_t object;
        bool operator==(const Event&) const = default;
    };
    // What a MODIFY_QP that has been carried out means to the device.
    struct Modification {
        bool to_reset;
        bool has_state;
        bool sets_mtu;
    };
    // Deferred commands (CTL-20): of each queue pair whose MODIFY_QP waits, that one and those
    // behind it.
    struct Deferred {
        uint64_t tag;
        uint32_t room; // bytes
        std::vector<uint8_t> request;
    };
    struct Waiting {
        Deferred first;
        Modification modification; // of the first
        std::vector<Deferred> behind;
    };
    struct Reply {
        uint64_t tag;
        std::vector<uint8_t> bytes;
    };
    struct DeviceState; // state_fields.h

private:
    using Status = virtio_rdma_status;

    // virtio_rdma_device.cc
    void drop_objects();
    void doorbell(uint32_t context, uint32_t value);
    template <typename... Args>
    void guest_error(uint64_t& counter, fmt::format_string<Args...> what, Args&&... args)
    {
        report_guest_error(_host, "virtio-rdma", counter, what, std::forward<Args>(args)...);
    }

    // control.cc
    // A request, copied and of its command's least length at least, and what is answered.
    struct Command {
        std::span<const uint8_t> request;
        uint64_t tag;
        virtio_rdma_request header;
        std::span<uint8_t> reply; // as long as the command's, all 0
        size_t room;              // bytes

        // The structure that the request begins with.
        template <typename T>
        T fields() const;
        // The addresses that follow it; nothing where what follows is not so many of them.
        template <typename T>
        std::optional<std::vector<uint64_t>> addresses(uint64_t count) const;
        // To be carried out later.
        Deferred deferred() const
        {
            return {tag, static_cast<uint32_t>(room), {request.begin(), request.end()}};
        }
        template <typename T>
        void answer(const T& fields);
        void answer_object(uint32_t object) { answer(virtio_rdma_reply{VIRTIO_RDMA_OK, object}); }
    };
    struct CommandEntry {
        virtio_rdma_command number;
        size_t request_size; // bytes; the least where addresses follow
        bool has_addresses;
        size_t reply_size;
        int feature; // VIRTIO_RDMA_F_*; negative: none
        bool is_destruction;
        // Nothing: the reply comes later.
        std::optional<Status> (VirtioRdmaDevice::*execute)(Command&);
    };
    static const CommandEntry* find_command(uint32_t number); // null: not known
    // What is to be answered: its bytes, or nothing where that is told later.
    std::optional<size_t> execute(uint64_t tag, std::span<const uint8_t> request,
                                  std::span<uint8_t> reply);
    std::optional<Status> query_device(Command& command);
    std::optional<Status> query_counters(Command& command);
    std::optional<Status> create_context(Command& command);
    std::optional<Status> destroy_context(Command& command);
    std::optional<Status> create_pd(Command& command);
    std::optional<Status> destroy_pd(Command& command);
    std::optional<Status> create_mr(Command& command);
    std::optional<Status> destroy_mr(Command& command);
    std::optional<Status> add_gid(Command& command);
    std::optional<Status> delete_gid(Command& command);
    virtio_rdma_limits limits();
    uint8_t max_mtu() const;
    bool is_context(uint32_t number) const { return number == 0 || _contexts.find(number); }
    void use_context(uint32_t number, int change);
    // Of a backend's error, where the device has found none.
    static Status status_of(int error);
    bool are_memory(std::span<const uint64_t> pages) const;
    // [virtio-rdma SEC-7]
    bool has_room_for(uint64_t pages) const { return pages <= max_pages_registered - _num_pages; }

    // queue_commands.cc
    std::optional<Status> create_cq(Command& command);
    std::optional<Status> destroy_cq(Command& command);
    std::optional<Status> create_srq(Command& command);
    std::optional<Status> arm_srq(Command& command);
    std::optional<Status> query_srq(Command& command);
    std::optional<Status> destroy_srq(Command& command);
    std::optional<Status> create_qp(Command& command);
    std::optional<Status> modify_qp(Command& command);
    std::optional<Status> query_qp(Command& command);
    std::optional<Status> destroy_qp(Command& command);
    Status check_transition(const Qp& qp, const ibv_qp_attr& present, const ibv_qp_attr& attr,
                            int mask) const;
    void has_been_modified(uint32_t id, const Modification& modification);
    virtio::EntryLimits entry_limits(uint32_t entry_size) const;
    void set_entry_limits(Qp& qp) const;
    std::optional<uint32_t> find_qp(uint32_t qpn) const;

    // data_path.cc
    void report_failure(Srq& srq);

    // device_state.cc
    migration::Status load_device(const migration::Section& section);
    migration::Status load_pd(const migration::Section& section);
    migration::Status load_mr(const migration::Section& section);
    migration::Status load_cq(const migration::Section& section);
    migration::Status load_srq(const migration::Section& section);
    migration::Status load_qp(const migration::Section& section);
    bool take_loaded_events();

    // events.cc
    // pending: the object's pending_events.
    void add_event(virtio_rdma_event_type type, uint32_t number, uint32_t& pending);
    void add_completion_event(uint32_t id, Cq& cq);
    // Of the event's object; null: there is none.
    uint32_t* pending_events_of(const Event& event);
    // Of an object that is destroyed (EVT-4).
    void forget_events(uint32_t types, uint32_t number);

    bool must_wait(const CommandEntry& entry, const Command& command);
    void end_wait(uint32_t qp, int error);
    void carry_out(const Deferred& command);
    void repeat_loaded();
    void add_reply(const Deferred& command, std::span<const uint8_t> bytes);

    const VirtioRdmaConfig _config;
    DeviceHost& _host;
    GuestMemory& _memory;
    Backend& _backend;
    Statistics& _stats;

    uint64_t _features = 0;
    uint32_t _event_queues = 0;
    bool _has_failed = false;         // DEVICE_FATAL
    std::optional<uint64_t> _guid;    // as it stands in the limits, once told (CTL-10)

    HandleTable<Context> _contexts; // by number, from 1 on
    virtio::NumberedTable<Pd> _pds;
    HandleTable<Mr> _mrs{UINT32_MAX}; // by the backend's ids, which are given in turn
    virtio::NumberedTable<Cq> _cqs;
    virtio::NumberedTable<Srq> _srqs;
    HandleTable<Qp> _qps{UINT32_MAX}; // by the backend's ids
    std::unordered_map<uint32_t, uint32_t> _qp_ids; // by QPN
    std::vector<bool> _gids;                        // whether there is one at the index
    uint64_t _num_pages = 0; // of all queues and regions, at most max_pages_registered

    GrowingRing<Event> _events;
    uint32_t _pending_device_events = 0;
    // Ids of CQs, by completion event queue.
    std::array<GrowingRing<uint32_t>, VIRTIO_RDMA_MAX_COMPLETION_QUEUES> _completion_events;
    std::map<uint32_t, Waiting> _waiting; // by the queue pair's id
    bool _waiting_is_loaded = false;      // the backend does not know of them
    GrowingRing<Reply> _replies;
};

} // namespace rdma
