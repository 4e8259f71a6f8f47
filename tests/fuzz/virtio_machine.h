// SPDX-License-Identifier: GPL-2.0-or-later
//
// A machine with a virtio RDMA device (docs/virtio-rdma), and a driver that knows what is right.
// It keeps account of the objects that exist and of the pages that the device has been told of,
// and checks each reply and event by that. What is wrong aborts.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "device_machine.h"
#include "virtio_rdma.h"
#include "virtio_rdma_abi.h"
#include "../virtio_requests.h"

namespace rdma::fuzz {

// Kinds of objects: first those that the device counts, in its order.
enum class Kind { context, pd, mr, cq, srq, qp, gid, none };
inline constexpr size_t num_counted_kinds = 6;
inline constexpr size_t num_kinds = 8;

// A command as docs/virtio-rdma/control.md has it.
struct CommandShape {
    size_t request; // bytes; of the structure alone where addresses follow
    bool has_addresses;
    size_t reply; // bytes
    Kind makes;
    Kind destroys;
};
const CommandShape* find_shape(uint32_t command); // null: there is no such command

// A queue in guest memory. Its pages lie anywhere.
struct VirtioQueue {
    uint64_t state = 0; // GPA
    std::vector<uint64_t> pages;
    uint32_t entry_size = 0;
    uint32_t entries = 0;
    uint32_t context = 0;
    uint32_t kind = VIRTIO_RDMA_DOORBELL_SQ;
    uint32_t number = 0; // of its QP or SRQ
};
struct VirtioQp {
    uint32_t qpn = 0;
    uint8_t type = VIRTIO_RDMA_QP_RC;
    VirtioQueue sq;
    VirtioQueue rq; // no entries: an SRQ's
};
struct VirtioCq {
    uint32_t number = 0;
    uint64_t state = 0; // GPA
    std::vector<uint64_t> pages;
    uint32_t entries = 0;
    uint32_t taken = 0;
    uint32_t sequence = 0; // of arming
};

VirtioRdmaConfig default_virtio_config();

class VirtioMachine final : public DeviceMachine {
public:
    static constexpr uint32_t all_event_queues = 0xffff;

    explicit VirtioMachine(uint8_t host = 1,
                           const VirtioRdmaConfig& config = default_virtio_config());
    ~VirtioMachine() override;

    const VirtioRdmaConfig& config() const { return _config; }

    // Pages that the driver gives to the device, between others that it does not.
    std::vector<uint64_t> device_pages(size_t count);

    // Features, event queues and one GID: 10.0.0.host.
    void bring_up();
    void set_features(uint64_t features);
    void set_event_queues(uint32_t queues);
    void add_gid(uint32_t index);
    // The status; nothing where there was no room for one, or the device could not be reached.
    std::optional<uint32_t> send(std::span<const uint8_t> request, size_t room);
    // With the room that the command's reply takes.
    std::optional<uint32_t> send(std::span<const uint8_t> request);
    template <typename Reply>
    Reply reply() const // to the last one that was carried out
    {
        Reply reply{};
        std::memcpy(&reply, _reply.data(), std::min(sizeof(reply), _reply.size()));
        return reply;
    }
    uint32_t made() const { return reply<virtio_rdma_reply>().object; }

    // Objects that work; what there is no room for aborts.
    uint32_t create_pd();
    VirtioCq create_cq(uint32_t entries);
    virtio_rdma_create_mr_reply register_memory(uint32_t pd, std::span<const uint64_t> pages,
                                                uint64_t iova);
    VirtioQueue create_srq(uint32_t pd, uint32_t context, uint32_t entries);
    VirtioQp create_qp(uint8_t type, uint32_t pd, uint32_t cq, uint32_t context, uint32_t entries,
                       std::optional<uint32_t> srq = {});
    // To RTS, as far as it goes. RC: towards the host's dest_qpn.
    void connect(const VirtioQp& qp, uint8_t host_number, uint32_t dest_qpn);
    static virtio_rdma_av address_of(uint8_t host_number);

    // Writes an entry of raw bytes (as many as fit a slot) and publishes it; rings.
    void publish(const VirtioQueue& queue, const void* entry, size_t size);
    void ring(const VirtioQueue& queue);
    void ring(uint32_t context, uint32_t value);
    // As consumer: takes all there is, and arms.
    void drain(VirtioCq& cq, uint32_t arm = VIRTIO_RDMA_ARM_NEXT);
    // Takes what the device has for the driver: queue 0 the replies, others events.
    void take(unsigned queue);

    const std::set<uint32_t>& objects(Kind kind) const
    {
        return _objects[static_cast<size_t>(kind)];
    }
    // After a reset of the device, or where a state has been loaded that is not its own: what is
    // known of objects does not hold.
    void forget_objects();
    void distrust_account();
    // Destroys all, one by one: nothing is left behind, and memory that the device has not been
    // told of is as it was.
    void destroy_all();
    void expect_nothing_left();
    void expect_canaries();

private:
    RdmaDevice* create_device(const RdmaHostOps& host_ops, void* opaque) override;
    unsigned last_vector() const override
    {
        return VIRTIO_RDMA_VQ_COMPLETION + _config.vectors - 1;
    }
    bool may_write(uint64_t gpa, uint64_t size) override;

    using Counts = std::array<uint64_t, num_counted_kinds>;
    Counts counts();
    std::set<uint32_t>& objects_of(Kind kind) { return _objects[static_cast<size_t>(kind)]; }
    void note_addresses(std::span<const uint8_t> request);
    void account(const CommandShape& shape, uint32_t object);
    static size_t page_index(uint64_t gpa) { return (gpa - ram) / page_size; }

    static constexpr size_t num_pages = (ram_size + more_ram_size) / page_size;

    const VirtioRdmaConfig _config;
    std::vector<uint8_t> _reply;
    std::array<std::set<uint32_t>, num_kinds> _objects;
    bool _is_account_kept = true;
    uint64_t _tag = 0;
    // Pages that are not canaries: handed out, or named in a command.
    std::bitset<num_pages> _known;
};

} // namespace rdma::fuzz
