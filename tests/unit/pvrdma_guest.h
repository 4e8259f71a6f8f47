// SPDX-License-Identifier: GPL-2.0-or-later
//
// A small guest for tests of the PVRDMA function: RAM, a driver that does as
// Linux's does (bring-up, commands, rings), and stand-ins for the host and the
// backend. Queue entries are laid out by the kernel's own header.
#pragma once

#include <rdma/vmw_pvrdma-abi.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "pvrdma_device.h"

namespace rdma::test {

using namespace rdma::pvrdma;

// Guest memory: RAM with a hole below and above it, and a read-only piece.
class GuestRam {
public:
    static constexpr uint64_t base = 0x100000;
    static constexpr uint64_t size = 128 << 20;
    static constexpr uint64_t rom = 0x8000'0000;
    static constexpr uint64_t hole = 0x9000'0000; // no memory here

    explicit GuestRam(GuestMemory& memory) : _memory(memory) { plug(); }

    // Takes all memory away, and puts it back.
    void unplug() { _memory.set_table({}); }
    void plug()
    {
        const RdmaMemoryRegion regions[] = {{base, size, _ram.get(), false},
                                            {rom, page_size, _rom.data(), true}};
        _memory.set_table(regions);
    }

    // The same memory elsewhere in the host's; where it was is gone.
    void move()
    {
        decltype(_ram) old = std::move(_ram);
        _ram.reset(static_cast<std::byte*>(std::calloc(size, 1)));
        std::copy_n(old.get(), _next - base, _ram.get());
        plug();
    }

    // A page of zeros. Pages are not adjacent, so that a run over an end shows.
    uint64_t page()
    {
        uint64_t gpa = _next;
        _next += 2 * page_size;
        if (_next > base + size) {
            throw std::runtime_error("the guest is out of memory");
        }
        return gpa;
    }
    std::vector<uint64_t> pages(size_t count)
    {
        std::vector<uint64_t> list(count);
        std::ranges::generate(list, [this] { return page(); });
        return list;
    }

    // A page directory of these pages.
    uint64_t directory(std::span<const uint64_t> pages)
    {
        uint64_t directory = page();
        for (size_t i = 0; i < pages.size(); ++i) {
            auto& table = at<uint64_t>(directory + i / 512 * 8);
            if (table == 0) {
                table = page();
            }
            at<uint64_t>(table + i % 512 * 8) = pages[i];
        }
        return directory;
    }

    template <typename T>
    T& at(uint64_t gpa)
    {
        return *reinterpret_cast<T*>(_ram.get() + (gpa - base));
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };

    GuestMemory& _memory;
    // calloc: what is not touched costs nothing.
    std::unique_ptr<std::byte, Free> _ram{static_cast<std::byte*>(std::calloc(size, 1))};
    std::vector<std::byte> _rom{page_size};
    uint64_t _next = base;
};

struct FakeHost final : DeviceHost {
    void raise_irq(unsigned vector) override { ++irqs.at(vector); }
    void set_intx(bool level) override { intx = level; }
    RdmaNicInfo nic_info() override { return nic; }
    void poll_idle() override { ++idle_polls; }
    void poll_end() override { ++poll_ends; }
    void log(int, std::string_view message) override { logged.emplace_back(message); }

    std::array<int, 3> irqs{};
    bool intx = false;
    int idle_polls = 0;
    int poll_ends = 0;
    RdmaNicInfo nic{{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}, 1500, true};
    std::vector<std::string> logged;
};

// Hands out ids, remembers what it was asked, fails when told to.
struct FakeBackend final : Backend {
    struct Objects {
        std::set<uint32_t> ids;
        uint32_t first = 0;
        Result<uint32_t> add()
        {
            uint32_t id = first;
            while (ids.contains(id)) {
                ++id;
            }
            ids.insert(id);
            return id;
        }
        int remove(uint32_t id) { return ids.erase(id) ? 0 : ENOENT; }
    };

    void reset() override
    {
        ++resets;
        pds = cqs = srqs = {};
        mrs = qps = {{}, 2};
        gids.clear();
    }
    Result<uint32_t> alloc_pd() override { return made(pds); }
    int dealloc_pd(uint32_t id) override { return failure ? failure : pds.remove(id); }
    Result<MrKeys> reg_mr(const MrInit& init) override
    {
        mr = init;
        mr_pages.assign(init.pages.begin(), init.pages.end());
        auto id = made(mrs);
        if (!id) {
            return std::unexpected(id.error());
        }
        return MrKeys{*id, *id << 8 | 1, *id << 8 | 2};
    }
    int dereg_mr(uint32_t id) override { return failure ? failure : mrs.remove(id); }
    Result<uint32_t> create_cq() override { return made(cqs); }
    int destroy_cq(uint32_t id) override { return failure ? failure : cqs.remove(id); }
    Result<uint32_t> create_srq(uint32_t, const ibv_srq_attr& attr) override
    {
        srq_attr = attr;
        return made(srqs);
    }
    int modify_srq(uint32_t, const ibv_srq_attr& attr, int mask) override
    {
        srq_attr = attr;
        srq_mask = mask;
        return failure;
    }
    int query_srq(uint32_t id, ibv_srq_attr& attr) override
    {
        attr = srq_attr;
        return srqs.ids.contains(id) ? 0 : ENOENT;
    }
    int destroy_srq(uint32_t id) override { return failure ? failure : srqs.remove(id); }
    Result<QpNumbers> create_qp(const QpInit& init) override
    {
        qp_init = init;
        if (init.gsi) {
            qps.ids.insert(1);
            return QpNumbers{1, 1};
        }
        auto id = made(qps);
        if (!id) {
            return std::unexpected(id.error());
        }
        return QpNumbers{*id, *id | qpn_high_bits};
    }
    int modify_qp(uint32_t id, const ibv_qp_attr& attr, int mask, const Mac& mac) override
    {
        if (!qps.ids.contains(id)) {
            return ENOENT;
        }
        qp_attr = attr;
        qp_mask = mask;
        dmac = mac;
        return failure;
    }
    int query_qp(uint32_t id, ibv_qp_attr& attr, Mac& mac) override
    {
        attr = qp_attr;
        mac = dmac;
        return qps.ids.contains(id) ? 0 : ENOENT;
    }
    int destroy_qp(uint32_t id) override { return failure ? failure : qps.remove(id); }
    void fail_qp(uint32_t id) override { failed_qps.push_back(id); }
    int add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                std::optional<uint16_t> vlan) override
    {
        gids[index] = {gid, type};
        gid_vlan = vlan;
        return failure;
    }
    int del_gid(uint32_t index) override { return gids.erase(index) ? 0 : ENOENT; }
    void send_doorbell(uint32_t qp) override { send_doorbells.push_back(qp); }
    void recv_doorbell(uint32_t qp) override { recv_doorbells.push_back(qp); }
    void srq_doorbell(uint32_t srq) override { srq_doorbells.push_back(srq); }

    Objects& objects_of(ObjectKind kind)
    {
        switch (kind) {
        case ObjectKind::pd:
            return pds;
        case ObjectKind::mr:
            return mrs;
        case ObjectKind::cq:
            return cqs;
        case ObjectKind::srq:
            return srqs;
        default:
            return qps;
        }
    }
    bool exists(ObjectKind kind, uint32_t id) const override
    {
        return const_cast<FakeBackend*>(this)->objects_of(kind).ids.contains(id);
    }
    size_t count(ObjectKind kind) const override
    {
        return const_cast<FakeBackend*>(this)->objects_of(kind).ids.size();
    }
    void save(migration::StreamWriter&) override {}
    migration::Status load(const migration::Section&) override { return {}; }

    Result<uint32_t> made(Objects& objects)
    {
        if (failure) {
            return std::unexpected(failure);
        }
        return objects.add();
    }

    Objects pds, cqs, srqs, mrs{{}, 2}, qps{{}, 2};
    std::map<uint32_t, std::pair<ibv_gid, uint32_t>> gids;
    std::optional<uint16_t> gid_vlan; // of the last one
    std::vector<uint32_t> send_doorbells, recv_doorbells, srq_doorbells, failed_qps;
    int failure = 0; // of whatever comes next
    int resets = 0;
    uint32_t qpn_high_bits = 0x030000;
    MrInit mr;
    std::vector<uint64_t> mr_pages;
    QpInit qp_init;
    ibv_qp_attr qp_attr{};
    int qp_mask = 0;
    Mac dmac{};
    ibv_srq_attr srq_attr{};
    int srq_mask = 0;
};

// A ring as driver and library work on it.
class DriverRing {
public:
    DriverRing() = default;
    DriverRing(GuestRam& ram, uint64_t state, std::vector<uint64_t> pages, uint32_t entry_size,
               uint32_t slots)
        : _ram(&ram), _state(state), _pages(std::move(pages)), _entry_size(entry_size),
          _slots(slots)
    {
    }

    uint32_t& tail() { return _ram->at<uint32_t>(_state); }
    uint32_t& head() { return _ram->at<uint32_t>(_state + 4); }
    uint32_t slots() const { return _slots; }
    // Entry of a slot.
    template <typename T>
    T& entry(uint32_t slot)
    {
        uint32_t offset = slot * _entry_size;
        return _ram->at<T>(_pages.at(offset / page_size) + offset % page_size);
    }
    const std::vector<uint64_t>& pages() const { return _pages; }

    bool has_data() { return tail() != head(); }
    // Of a ring whose slots are a power of two.
    uint32_t unread() { return (tail() - head()) & mask(); }
    // As producer: the next free entry, cleared; publish() follows.
    template <typename T>
    T& next()
    {
        T& slot = entry<T>(tail() & (_slots - 1));
        std::fill_n(reinterpret_cast<std::byte*>(&slot), _entry_size, std::byte{});
        return slot;
    }
    void publish() { tail() = (tail() + 1) & mask(); }
    // As consumer.
    template <typename T>
    T take()
    {
        T value = entry<T>(head() & (_slots - 1));
        head() = (head() + 1) & mask();
        return value;
    }

private:
    // As the driver computes it, also where slots is not a power of two.
    uint32_t mask() const { return (_slots << 1) - 1; }

    GuestRam* _ram = nullptr;
    uint64_t _state = 0;
    std::vector<uint64_t> _pages;
    uint32_t _entry_size = 0;
    uint32_t _slots = 0;
};

struct ModelQp {
    uint32_t handle;
    uint32_t qpn;
    DriverRing sq;
    DriverRing rq;
};
struct ModelCq {
    uint32_t handle;
    DriverRing ring;
};
struct ModelSrq {
    uint32_t handle;
    DriverRing ring;
};

inline PvrdmaConfig default_config()
{
    PvrdmaConfig config;
    pvrdma_config_default(&config);
    return config;
}

inline uint32_t round_up(uint32_t n)
{
    return std::bit_ceil(n);
}

class ModelGuest {
public:
    explicit ModelGuest(const PvrdmaConfig& c = default_config())
        : config(c), device(config, host, memory, backend, stats)
    {
        backend.reset();
        lay_out_region();
    }

    // Registers and doorbells.
    uint32_t read(uint64_t offset) { return device.bar_read(PVRDMA_BAR_REGS, offset, 4); }
    void write(uint64_t offset, uint32_t value)
    {
        device.bar_write(PVRDMA_BAR_REGS, offset, value, 4);
    }
    void ring(uint64_t offset, uint32_t value, uint64_t uar_page = 1)
    {
        device.bar_write(PVRDMA_BAR_UAR, uar_page * 4096 + offset, value, 4);
    }

    // Bring-up.
    SharedRegion& region() { return ram.at<SharedRegion>(dsr); }
    void write_dsr(uint64_t gpa)
    {
        write(reg_dsr_low, static_cast<uint32_t>(gpa));
        write(reg_dsr_high, static_cast<uint32_t>(gpa >> 32));
    }
    bool bring_up()
    {
        write_dsr(dsr);
        write(reg_imr, 0);
        write(reg_ctl, ctl_activate);
        return read(reg_err) == 0;
    }

    // Puts the command into its slot, asks for it, and returns ERR.
    template <typename Cmd>
    uint32_t post(Command number, Cmd cmd)
    {
        cmd.hdr = {.response = ++_key, .cmd = number, .reserved = 0};
        ram.at<Cmd>(command_slot) = cmd;
        write(reg_request, 0);
        return read(reg_err);
    }
    template <typename Resp>
    Resp response()
    {
        return ram.at<Resp>(response_slot);
    }
    uint32_t destroy(Command number, uint32_t handle)
    {
        return post(number, CmdHandle{.hdr = {}, .handle = handle, .reserved = 0});
    }
    // The response of a command that must succeed and be answered.
    template <typename Resp, typename Cmd>
    Resp ask(Command number, const Cmd& cmd)
    {
        int before = host.irqs[vector_response];
        uint32_t error = post(number, cmd);
        auto resp = response<Resp>();
        bool answered = host.irqs[vector_response] == before + 1;
        auto hdr = response<RespHdr>();
        if (error != 0 || !answered || hdr.ack != (number | cmd_response_bit) ||
            hdr.response != _key || hdr.err != 0) {
            throw std::runtime_error("command " + std::to_string(number) +
                                     " failed: " + std::to_string(error));
        }
        return resp;
    }

    // Objects, as the driver makes them.
    uint32_t create_pd() { return ask<RespHandle>(cmd_create_pd, CmdCreatePd{}).handle; }
    CmdCreateCq cq_command(uint32_t cqe, std::vector<uint64_t>& pages)
    {
        pages = ram.pages(1 + (cqe * 64 + 4095) / 4096);
        return {.pdir_dma = ram.directory(pages),
                .cqe = cqe,
                .nchunks = static_cast<uint32_t>(pages.size())};
    }
    ModelCq create_cq(uint32_t cqe)
    {
        std::vector<uint64_t> pages;
        auto resp = ask<RespCreateCq>(cmd_create_cq, cq_command(cqe, pages));
        return {resp.cq_handle, {ram, pages[0] + 8, rest(pages, 1), 64, resp.cqe}};
    }
    CmdCreateSrq srq_command(uint32_t max_wr, uint32_t max_sge, std::vector<uint64_t>& pages)
    {
        uint32_t size = round_up(16 + 16 * max_sge);
        pages = ram.pages(1 + 2 * ((max_wr * size + 4095) / 4096)); // as the library does
        return {.pdir_dma = ram.directory(pages),
                .pd_handle = pd,
                .nchunks = static_cast<uint32_t>(pages.size()),
                .attrs = {.max_wr = max_wr, .max_sge = max_sge}};
    }
    ModelSrq create_srq(uint32_t max_wr, uint32_t max_sge)
    {
        std::vector<uint64_t> pages;
        auto resp = ask<RespHandle>(cmd_create_srq, srq_command(max_wr, max_sge, pages));
        return {resp.handle,
                {ram, pages[0] + 8, rest(pages, 1), round_up(16 + 16 * max_sge), max_wr}};
    }
    struct QpShape {
        uint8_t type = qpt_rc;
        uint32_t send_wr = 8;
        uint32_t recv_wr = 8;
        uint32_t send_sge = 2;
        uint32_t recv_sge = 2;
        std::optional<uint32_t> srq = std::nullopt;
    };
    CmdCreateQp qp_command(const QpShape& shape, std::vector<uint64_t>& pages)
    {
        uint32_t sq = (shape.send_wr * round_up(80 + 16 * shape.send_sge) + 4095) / 4096;
        uint32_t rq =
            shape.srq ? 0 : (shape.recv_wr * round_up(16 + 16 * shape.recv_sge) + 4095) / 4096;
        pages = ram.pages(1 + sq + rq);
        return {.pdir_dma = ram.directory(pages),
                .pd_handle = pd,
                .send_cq_handle = cq.handle,
                .recv_cq_handle = cq.handle,
                .srq_handle = shape.srq.value_or(0),
                .max_send_wr = shape.send_wr,
                .max_recv_wr = shape.srq ? 0 : shape.recv_wr,
                .max_send_sge = shape.send_sge,
                .max_recv_sge = shape.srq ? 0 : shape.recv_sge,
                .total_chunks = static_cast<uint16_t>(pages.size()),
                .send_chunks = static_cast<uint16_t>(sq),
                .qp_type = shape.type,
                .is_srq = shape.srq.has_value()};
    }
    ModelQp create_qp(const QpShape& shape)
    {
        std::vector<uint64_t> pages;
        auto cmd = qp_command(shape, pages);
        ModelQp qp{};
        if (config.version >= 20) {
            auto resp = ask<RespCreateQpV2>(cmd_create_qp, cmd);
            qp.handle = resp.qp_handle;
            qp.qpn = resp.qpn;
        } else {
            qp.handle = qp.qpn = ask<RespCreateQp>(cmd_create_qp, cmd).qpn;
        }
        qp.sq = {ram, pages[0], rest(pages, 1), round_up(80 + 16 * shape.send_sge), shape.send_wr};
        if (!shape.srq) {
            qp.rq = {ram, pages[0] + 8, rest(pages, 1u + cmd.send_chunks),
                     round_up(16 + 16 * shape.recv_sge), shape.recv_wr};
        }
        return qp;
    }
    // A guest with a PD and a CQ, which create_qp and create_srq use.
    void set_up()
    {
        if (!bring_up()) {
            throw std::runtime_error("bring-up failed");
        }
        pd = create_pd();
        cq = create_cq(64);
    }

    // The rings of the shared region; slots as the driver computes them.
    DriverRing async_ring() { return event_ring(_async_pages, 8); }
    DriverRing notifications() { return event_ring(_cq_pages, 4); }

    const PvrdmaConfig config;
    Statistics stats;
    GuestMemory memory;
    GuestRam ram{memory};
    FakeHost host;
    FakeBackend backend;
    PvrdmaDevice device;
    uint64_t dsr = 0;
    uint64_t command_slot = 0;
    uint64_t response_slot = 0;
    uint32_t pd = 0;
    ModelCq cq{};

private:
    static std::vector<uint64_t> rest(const std::vector<uint64_t>& pages, size_t first)
    {
        return {pages.begin() + static_cast<std::ptrdiff_t>(first), pages.end()};
    }
    DriverRing event_ring(const std::vector<uint64_t>& pages, uint32_t entry_size)
    {
        return {ram, pages[0] + 8, rest(pages, 1), entry_size,
                static_cast<uint32_t>((pages.size() - 1) * page_size / entry_size)};
    }
    void lay_out_region()
    {
        dsr = ram.page();
        command_slot = ram.page();
        response_slot = ram.page();
        _async_pages = ram.pages(4);
        _cq_pages = ram.pages(4);
        region().cmd_slot_dma = command_slot;
        region().resp_slot_dma = response_slot;
        region().async_ring = {4, 0, ram.directory(_async_pages)};
        region().cq_ring = {4, 0, ram.directory(_cq_pages)};
    }

    std::vector<uint64_t> _async_pages;
    std::vector<uint64_t> _cq_pages;
    uint64_t _key = 0x1000;
};

} // namespace rdma::test
