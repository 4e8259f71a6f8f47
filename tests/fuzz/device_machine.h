// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtual machine around a device of any kind behind its C boundary: RAM whose
// ends ASan watches, a network that takes every frame, a clock that the test
// moves. The machines of the kinds (machine.h, virtio_machine.h) have the driver.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rdma_device.h"

namespace rdma::fuzz {

inline constexpr uint64_t page_size = 4096;

class DeviceMachine {
public:
    // RAM is one region and, right behind it for the guest but elsewhere for
    // the host, another; then a page of ROM.
    static constexpr uint64_t ram = 0x100000;
    static constexpr uint64_t ram_size = 1 << 20;
    static constexpr uint64_t more_ram = ram + ram_size;
    static constexpr uint64_t more_ram_size = 16 * page_size;
    static constexpr uint64_t rom = 0x8000'0000;
    static constexpr uint8_t mac_prefix[5] = {0x52, 0x54, 0, 0, 0}; // then the host

    virtual ~DeviceMachine();
    DeviceMachine(const DeviceMachine&) = delete;
    DeviceMachine& operator=(const DeviceMachine&) = delete;

    uint8_t host() const { return _host; }
    // The host's GID (of 10.0.0.host) and MAC, into fields that are all 0.
    static void put_address(uint8_t host, std::span<uint8_t, 16> gid, std::span<uint8_t, 6> mac);
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

    void reset(); // as the hypervisor does it
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

protected:
    // host: its number in 10.0.0.0/24 and in MAC addresses, 1 to 3; two machines
    // at once have different ones. The device comes with plug().
    explicit DeviceMachine(uint8_t host);

    // Null: it cannot be made.
    virtual RdmaDevice* create_device(const RdmaHostOps& host_ops, void* opaque) = 0;
    virtual unsigned last_vector() const = 0; // that the device may raise
    // Whether the device may write there. RAM is all that it has.
    virtual bool may_write(uint64_t /*gpa*/, uint64_t /*size*/) { return true; }

    // While the device works: whose memory it is that it reads.
    class Working;
    // Whether an access of a CPU's can be made: starts a machine that is stopped.
    bool cpu_runs();
    bool is_at_work() const { return _depth > 0; }
    unsigned lives() const { return _lives; } // resets and ends of devices
    RdmaDevice* device() { return _device; }

private:
    // What the host keeps for a device, as long as there is one.
    struct Host {
        DeviceMachine* machine;
    };
    static DeviceMachine& machine(void* opaque) { return *static_cast<Host*>(opaque)->machine; }

    void before_read(uint64_t gpa, uint64_t size);
    // Whether the device must leave guest memory alone and raise no interrupt: the VM is
    // stopped, or the device has been reset or ended in the call that is under way.
    bool is_quiet() const { return _stopped || _is_over; }
    void poison_memory(bool poisoned);
    static const RdmaHostOps ops;
    static DeviceMachine* _working;

    const uint8_t _host;
    std::span<std::byte> _ram;
    std::span<std::byte> _more_ram;
    std::span<std::byte> _rom;
    RdmaDevice* _device = nullptr;
    std::unique_ptr<Host> _device_host;
    unsigned _depth = 0; // calls of the device under way
    bool _stopped = false;
    unsigned _lives = 0;
    bool _is_over = false; // reset or ended in one of them
    uint64_t _next_page = ram;
    int64_t _now = 0;
    int64_t _deadline = INT64_MAX;
    bool _full = false;
    bool _link_up = true;
    std::vector<Change> _changes;
    uint32_t _reads = 0;
};

class DeviceMachine::Working {
public:
    explicit Working(DeviceMachine* machine);
    ~Working();
    Working(const Working&) = delete;
    Working& operator=(const Working&) = delete;

private:
    DeviceMachine* _machine;
    DeviceMachine* _before;
};

// What libFuzzer reports, with a line that says what is wrong.
[[noreturn]] void broken(const char* what);

} // namespace rdma::fuzz
