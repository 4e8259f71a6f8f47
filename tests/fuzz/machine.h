// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtual machine around a PVRDMA device behind its C boundary: RAM whose
// ends ASan watches, a network that takes every frame, a clock that the test
// moves; and a driver that knows what is right, so that what is wrong can be
// put where it hurts. What a fuzz target finds becomes a unit test on this.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pvrdma_abi.h"
#include "queue_abi.h"
#include "pvrdma.h"

namespace rdma::fuzz {

using namespace pvrdma;

inline constexpr uint64_t page_size = 4096;

// A ring as the driver makes it: a state in guest memory, and pages of entries.
struct Ring {
    uint64_t state = 0; // GPA of a RingState
    std::vector<uint64_t> pages;
    uint32_t entry_size = 0;
    uint32_t slots = 0;
};
struct GuestQp {
    uint32_t handle = 0;
    uint32_t qpn = 0;
    Ring sq;
    Ring rq;
};

// The defaults of the device.
PvrdmaConfig default_config();

class Machine {
public:
    // RAM is one region and, right behind it for the guest but elsewhere for
    // the host, another; then a page of ROM.
    static constexpr uint64_t ram = 0x100000;
    static constexpr uint64_t ram_size = 1 << 20;
    static constexpr uint64_t more_ram = ram + ram_size;
    static constexpr uint64_t more_ram_size = 16 * page_size;
    static constexpr uint64_t rom = 0x8000'0000;
    static constexpr uint8_t mac_prefix[5] = {0x52, 0x54, 0, 0, 0}; // then the host

    // host: its number in 10.0.0.0/24 and in MAC addresses, 1 to 3; two machines
    // at once have different ones.
    explicit Machine(uint8_t host = 1, const PvrdmaConfig& config = default_config());
    ~Machine();
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    uint8_t host() const { return _host; }
    void map_memory(bool all);
    void set_dirty_log(bool on);
    // Where frames go that the device sends (otherwise nowhere). May lead to whatever
    // an interrupt may: a network can deliver within its send.
    std::function<void(std::span<const uint8_t>)> on_send;
    // Called for each interrupt; may do whatever an MSI message may lead to.
    std::function<void(unsigned vector)> on_irq;
    std::function<void()> on_poll_idle, on_poll_end;

    // RAM as the guest sees it. poke ignores what is not RAM.
    uint64_t page(); // a page of zeros that nobody has; at the end, the first again
    void poke(uint64_t gpa, const void* bytes, size_t size);
    template <typename T>
    void put(uint64_t gpa, const T& value)
    {
        poke(gpa, &value, sizeof(value));
    }
    template <typename T>
    T get(uint64_t gpa)
    {
        T value{};
        peek(gpa, &value, sizeof(value));
        return value;
    }
    std::vector<uint64_t> pages(size_t count);
    uint64_t directory(std::span<const uint64_t> pages);

    // The driver.
    uint64_t dsr = 0;
    uint64_t command_slot = 0;
    uint64_t response_slot = 0;
    void bring_up();
    void reset();  // as the hypervisor does it
    // Migration: what the stopped device is saved as; makes it what a state says,
    // the message where that is refused, else empty. A stopped machine's CPUs go on, and it
    // is started, with the next access to a BAR.
    void stop();
    void start();
    bool is_stopped() const { return _stopped; }
    std::vector<uint8_t> save();
    std::string load(std::span<const uint8_t> state);
    // Ends the device: what the host keeps for it, and guest memory, are gone at once.
    // Accesses lead nowhere until plug() makes a new one.
    void unplug();
    void plug();
    bool is_plugged() const { return _device != nullptr; }
    void write_bar(unsigned bar, uint64_t offset, uint64_t value, unsigned size = 4);
    uint64_t read_bar(unsigned bar, uint64_t offset, unsigned size = 4);
    void write_register(uint32_t offset, uint32_t value);
    uint32_t read_register(uint32_t offset);
    void ring(uint32_t page, uint32_t offset, uint32_t value);
    // Puts a command into the slot and asks for it; whether it was carried out.
    bool execute(const void* command, size_t size, uint32_t number);
    template <typename Cmd>
    bool execute(Command number, const Cmd& cmd)
    {
        return execute(&cmd, sizeof(cmd), number);
    }
    template <typename Resp>
    Resp response()
    {
        return get<Resp>(response_slot);
    }

    // Objects that work.
    uint32_t create_pd();
    Ring create_cq(uint32_t entries, uint32_t& handle);
    RespCreateMr register_memory(uint32_t pd, std::span<const uint64_t> pages, uint64_t iova);
    // srq: in place of a receive queue.
    GuestQp create_qp(uint8_t type, uint32_t pd, uint32_t cq, uint32_t wr = 16, uint32_t sge = 2,
                      std::optional<uint32_t> srq = {});
    Ring create_srq(uint32_t pd, uint32_t wr, uint32_t sge, uint32_t& handle);
    void bind_gid(uint32_t index, uint8_t host_number); // 10.0.0.host_number
    // To RTS. RC and UC: towards the host's dest_qpn, both PSNs as given.
    void connect(const GuestQp& qp, uint8_t type, uint8_t host_number, uint32_t dest_qpn,
                 uint32_t psn, uint8_t retries = 3);

    // Publishes an entry of raw bytes (as many as fit a slot).
    void publish(const Ring& ring, const void* entry, size_t size);
    void post_recv(const GuestQp& qp, uint64_t address, uint32_t length, uint32_t lkey,
                   uint64_t wr_id = 1);
    // As consumer: takes the oldest entry, if there is one; takes all there is.
    std::optional<Cqe> poll(const Ring& cq);
    void drain(const Ring& ring);
    void drain_events();
    // Writes one of the four indices of the two event rings.
    void lie_about_events(uint32_t index, uint32_t value);
    static Av address_vector(uint8_t host_number, uint32_t pd);

    // The world.
    void receive(std::span<const uint8_t> frame);
    // A frame of the guest's NIC.
    void observe_sent(std::span<const uint8_t> frame);
    void advance(int64_t nanoseconds);
    int64_t deadline() const { return _deadline - _now; } // of the timer, from now
    // The network takes no frames until told again.
    void set_network_full(bool full);
    void set_link(bool up);

    // The guest's other CPUs: pokes value into what the device has begun to
    // read, after so many reads (0: before the next).
    struct Change {
        uint32_t after;
        uint32_t offset;
        uint32_t value;
    };
    void change_while_read(std::vector<Change> changes);

    void peek(uint64_t gpa, void* bytes, size_t size);
    std::byte* at(uint64_t gpa, size_t size); // null where it is not RAM

private:
    // While the device works: whose memory it is that it reads.
    class Working;
    // What the host keeps for a device, as long as there is one.
    struct Host {
        Machine* machine;
    };
    static Machine& machine(void* opaque) { return *static_cast<Host*>(opaque)->machine; }

    void before_read(uint64_t gpa, uint64_t size);
    // Whether an access to a BAR can be made: starts a machine that is stopped.
    bool cpu_runs();
    // Whether the device must leave guest memory alone and raise no interrupt: the VM is
    // stopped, or the device has been reset or ended in the call that is under way.
    bool is_quiet() const { return _stopped || _is_over; }
    void poison_memory(bool poisoned);
    static const RdmaHostOps ops;
    static Machine* _working;

    const PvrdmaConfig _config;
    const uint8_t _host;
    const bool _has_qp_handles; // in the answer to CREATE_QP
    const uint8_t _gid_type;
    std::span<std::byte> _ram;
    std::span<std::byte> _more_ram;
    std::span<std::byte> _rom;
    RdmaDevice* _device = nullptr;
    std::unique_ptr<Host> _device_host;
    unsigned _depth = 0;    // calls of the device under way
    bool _stopped = false;
    bool _is_over = false;  // reset or ended in one of them
    uint64_t _event_rings[2] = {}; // their states
    uint64_t _next_page = ram;
    int64_t _now = 0;
    int64_t _deadline = INT64_MAX;
    bool _full = false;
    bool _link_up = true;
    std::vector<Change> _changes;
    uint32_t _reads = 0;
};

} // namespace rdma::fuzz
