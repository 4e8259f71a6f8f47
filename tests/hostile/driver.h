// SPDX-License-Identifier: GPL-2.0-or-later
//
// A driver of the device from user space: brings it up, makes objects in it. What the device
// does not do right shows in what it answers, not here.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "pvrdma_abi.h"
#include "queue_abi.h"

namespace hostile {

inline constexpr uint64_t page_size = 4096;

class Driver {
public:
    using Words = std::span<volatile uint32_t>;
    // registers, doorbells: BARs 1 and 2. memory: whole pages, which the device finds at address.
    Driver(Words registers, Words doorbells, std::span<uint8_t> memory, uint64_t address)
        : _registers(registers), _doorbells(doorbells), _ram(memory), _address(address)
    {
    }

    static constexpr uint32_t queue_depth = 16;
    static constexpr uint32_t queue_entry = 256; // bytes, of 8 SGEs
    static constexpr uint32_t queue_sge = 8;
    static constexpr uint32_t cq_entries = 64;
    static constexpr uint32_t known_qkey = 0x11111111;
    static constexpr const char* own_address = "10.0.9.1"; // an address of nobody else

    // Memory for the device: pages one after another, again from the first at the end.
    uint64_t page();
    uint8_t* at(uint64_t address) { return _ram.data() + (address - _address); }
    template <typename T>
    void put(uint64_t address, const T& value)
    {
        std::memcpy(at(address), &value, sizeof(value));
    }
    template <typename T>
    T get(uint64_t address)
    {
        T value;
        std::memcpy(&value, at(address), sizeof(value));
        return value;
    }
    // Directory of these pages, 512 at most.
    uint64_t directory(std::span<const uint64_t> pages);
    // Directory of so many pages of ours; the first's address is returned in first.
    uint64_t directory(size_t count, uint64_t& first);

    void write(uint32_t reg, uint32_t value)
    {
        std::atomic_thread_fence(std::memory_order_release);
        _registers[reg / 4] = value;
    }
    uint32_t read(uint32_t reg) { return _registers[reg / 4]; }
    void ring(uint32_t doorbell, uint32_t value)
    {
        std::atomic_thread_fence(std::memory_order_release);
        _doorbells[doorbell / 4] = value;
    }

    // spoil(region): changes what the device is given.
    template <typename Spoil>
    void bring_up(uint32_t interrupt_mask, Spoil&& spoil)
    {
        rdma::pvrdma::SharedRegion region = shared_region();
        spoil(region);
        activate(region, interrupt_mask);
    }
    void bring_up()
    {
        bring_up(0, [](auto&) {});
    }

    // Whether the device has done it.
    template <typename Cmd>
    bool execute(rdma::pvrdma::Command number, Cmd cmd)
    {
        cmd.hdr.cmd = number;
        put(_command_slot, cmd);
        write(rdma::pvrdma::reg_request, 0);
        bool done = read(rdma::pvrdma::reg_err) == 0;
        _commands_done += done;
        return done;
    }
    template <typename Resp>
    Resp response()
    {
        return get<Resp>(_response_slot);
    }
    uint64_t command_slot() const { return _command_slot; }
    uint64_t commands_done() const { return _commands_done; }

    struct Qp {
        uint32_t handle = 0;
        uint32_t qpn = 0;
        uint64_t state = 0; // addresses
        uint64_t sq = 0;
    };
    struct Cq {
        uint32_t handle = 0;
        uint64_t state = 0;
        uint64_t entries = 0;
    };
    // How often and how long a QP tries (IBTA vol. 1, 9.7.6.1.3).
    struct Patience {
        uint8_t timeout;
        uint8_t retries;
    };

    void bind_address(const std::string& address);
    uint32_t create_pd();
    Cq create_cq();
    // A region at 0x1000 with all rights, of these pages; returns its key, local and remote.
    uint32_t create_mr(uint32_t pd, std::span<const uint64_t> pages);
    static constexpr uint64_t region_start = 0x1000;
    Qp create_qp(uint32_t pd, uint32_t cq, uint8_t type);
    void connect(const Qp& qp, uint8_t type, uint32_t peer, Patience patience);
    // Puts a request into the send queue.
    template <typename Wqe>
    void enqueue(const Qp& qp, const Wqe& wqe)
    {
        auto tail = get<uint32_t>(qp.state);
        put(qp.sq + tail % queue_depth * queue_entry, wqe);
        put(qp.state, (tail + 1) % (2 * queue_depth));
    }
    // The same, and rings.
    template <typename Wqe>
    void post(const Qp& qp, const Wqe& wqe)
    {
        enqueue(qp, wqe);
        ring(rdma::pvrdma::uar_qp_offset, rdma::pvrdma::uar_qp_send | qp.handle);
    }
    // Whether there was a completion.
    bool poll(const Cq& cq, rdma::pvrdma::Cqe& out);

    // The GID of an IPv4 address (RFC 4291, 2.5.5.2).
    static void put_address(uint8_t (&gid)[16], const std::string& address);

private:
    rdma::pvrdma::SharedRegion shared_region();
    void activate(const rdma::pvrdma::SharedRegion& region, uint32_t interrupt_mask);
    // The page that page() gave next.
    uint64_t page_after(uint64_t page) const;

    Words _registers;
    Words _doorbells;
    std::span<uint8_t> _ram;
    uint64_t _address;
    uint64_t _next_page = 0;
    uint64_t _command_slot = 0;
    uint64_t _response_slot = 0;
    uint64_t _commands_done = 0;
};

} // namespace hostile
