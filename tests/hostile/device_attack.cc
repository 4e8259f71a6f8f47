// SPDX-License-Identifier: GPL-2.0-or-later
//
// One thread asks things of the device, mostly right ones: it brings it up, makes
// objects, connects two QPs with each other, posts requests. Another, on
// another CPU where there is one, writes over the memory in which all that is.
#include <fmt/format.h>
#include <infiniband/verbs.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "attacks.h"
#include "card_interrupts.h"
#include "driver.h"
#include "pci_function.h"

namespace hostile {

namespace {

using namespace rdma::pvrdma;

constexpr uint64_t num_pages = DmaMemory::size / page_size;
constexpr unsigned registers = 1; // BARs
constexpr unsigned doorbells = 2;

// What a driver needs to begin with.
struct Hardware {
    explicit Hardware(const std::string& device) : _function(device) {}

    DmaMemory _memory;
    PciFunction _function;
};

class DeviceAttack : Hardware, Driver {
public:
    explicit DeviceAttack(const Options& options)
        : Hardware(options.device),
          Driver(_function.bar(registers), _function.bar(doorbells),
                 {_memory.memory(), DmaMemory::size}, _memory.physical()),
          _options(options), _random(options.seed)
    {
    }

    void run()
    {
        std::atomic<bool> stop = false;
        std::thread scribbler([&] { scribble(stop); });
        fmt::print("attacking\n");
        std::fflush(stdout);
        uint64_t rounds = 0;
        for (; !stopped(_options); ++rounds) {
            round();
        }
        stop = true;
        scribbler.join();
        _function.set_msix(false);
        _function.enable();
        write(reg_ctl, ctl_reset);
        fmt::print("{} rounds, {} actions, {} commands done\n", rounds, _actions, commands_done());
    }

    void run_from_sends(const SendOptions& options)
    {
        CardInterrupts card(options.card);
        fmt::print("attacking\n");
        std::fflush(stdout);
        unsigned led_back = 0;
        for (unsigned i = 0; i < options.rounds && !stopped(_options); ++i) {
            _function.enable();
            bring_up(false);
            create_objects(qpt_ud, options.source);
            // What is pending goes where it does no harm.
            card.aim(page(), 0);
            card.unmask();
            card.aim(options.target, options.value);
            post_datagram(options);
            bool before = _function.is_bus_master();
            ring(uar_qp_offset, uar_qp_send | _qps[0].handle);
            led_back += before && !_function.is_bus_master();
        }
        card.aim(page(), 0);
        fmt::print("{} of {} sends led back\n", led_back, options.rounds);
    }

private:
    // From the device up to requests, then every kind of harm.
    void round()
    {
        _function.enable();
        bring_up(_random() % 4 == 0);
        static constexpr uint8_t types[] = {qpt_rc, qpt_rc, qpt_uc, qpt_ud};
        // 10.0.9.1: an address of nobody else.
        create_objects(types[_random() % std::size(types)], own_address);
        uint64_t actions = 50 + _random() % 200;
        for (uint64_t i = 0; i < actions; ++i, ++_actions) {
            act();
        }
        if (_random() % 2) {
            write(reg_ctl, ctl_reset);
        }
    }

    void act()
    {
        switch (_random() % 16) {
        case 0:
            write(static_cast<uint32_t>(_random() % 16 * 4), awkward(_random));
            break;
        case 1:
            read(static_cast<uint32_t>(_random() % 16 * 4));
            break;
        case 2: // anywhere in the BARs
            _function.bar(registers)[_random() % _function.bar(registers).size()] = awkward(_random);
            break;
        case 3:
            _function.bar(doorbells)[_random() % _function.bar(doorbells).size()] = awkward(_random);
            break;
        case 4:
            spoiled_command();
            break;
        case 5:
            bring_up(_random() % 4 == 0);
            break;
        case 6:
            aim_interrupts();
            break;
        case 7:
            if (_random() % 8 == 0) {
                _function.disable(); // no DMA for a while
                ring(uar_qp_offset, uar_qp_send | _qps[0].handle);
                _function.enable();
            }
            break;
        case 8:
            ring(uar_cq_offset, 1u << (29 + _random() % 3) | (_random() % 8 ? _cq : awkward(_random)));
            break;
        case 9:
            ring(uar_srq_offset, uar_srq_recv | awkward(_random));
            break;
        default:
            post();
        }
    }

    // Where directories may point: memory of our own, or none at all. The rest of
    // the guest's memory is not ours to have written over.
    uint64_t address()
    {
        switch (_random() % 4) {
        case 0:
            return (_random() | uint64_t{1} << 62) & ~(page_size - 1);
        case 1:
            return _random() | uint64_t{1} << 62;
        default:
            return _memory.physical() + _random() % num_pages * page_size;
        }
    }

    // wrong: in one place.
    void bring_up(bool wrong)
    {
        if (!wrong) {
            return Driver::bring_up();
        }
        Driver::bring_up(awkward(_random), [&](SharedRegion& region) {
            uint64_t* fields[] = {&region.cmd_slot_dma, &region.resp_slot_dma,
                                  &region.async_ring.pdir_dma, &region.cq_ring.pdir_dma};
            *fields[_random() % std::size(fields)] = address();
            region.async_ring.num_pages = _random() % 2 ? awkward(_random) : 4;
        });
    }

    // Any words, as a command; addresses among them are ours or nobody's.
    void spoiled_command()
    {
        CommandSlot slot{};
        for (size_t i = 2; i < sizeof(slot) / 8; ++i) {
            uint64_t word = _random() % 2 ? address() : uint64_t{awkward(_random)} << 32 | _random() % 8;
            std::memcpy(slot.data() + i * 8, &word, sizeof(word));
        }
        CmdHdr hdr{0, static_cast<uint32_t>(_random() % (cmd_max + 2)), 0};
        std::memcpy(slot.data(), &hdr, sizeof(hdr));
        put(command_slot(), slot);
        write(reg_request, 0);
    }
    // QPs of this type, which are connected with each other; the device's address.
    void create_objects(uint8_t type, const std::string& address)
    {
        bind_address(address);
        _pd = create_pd();
        _cq = create_cq().handle;
        uint64_t pages[8];
        std::ranges::generate(pages, [this] { return page(); });
        _key = create_mr(_pd, pages);
        _type = type;
        for (Qp& qp : _qps) {
            qp = create_qp(_pd, _cq, type);
        }
        for (size_t i = 0; i < _qps.size(); ++i) {
            connect(_qps[i], type, _qps[1 - i].qpn, {.timeout = 1, .retries = 1});
        }
    }

    void post_datagram(const SendOptions& options)
    {
        const Qp& qp = _qps[0];
        struct {
            SqWqeHdr hdr;
            Sge sge;
        } wqe{};
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = wr_send;
        wqe.hdr.wr.ud = {1, known_qkey,
                         Av{.port_pd = 1u << 24 | _pd, .hop_limit = options.hop_limit}};
        Av& av = wqe.hdr.wr.ud.av;
        put_address(av.dgid, options.destination);
        if (sscanf(options.mac.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &av.dmac[0], &av.dmac[1],
                   &av.dmac[2], &av.dmac[3], &av.dmac[4], &av.dmac[5]) != 6) {
            throw Error(options.mac + " is no Ethernet address");
        }
        wqe.sge = {0x1000, 64, _key};
        enqueue(qp, wqe);
    }

    // A request whose fields are right or anything; sometimes an index that is
    // none.
    void post()
    {
        const Qp& qp = _qps[_random() % _qps.size()];
        auto tail = get<uint32_t>(qp.state);
        struct {
            SqWqeHdr hdr;
            Sge sge[queue_sge];
        } wqe{};
        wqe.hdr.num_sge = _random() % 16 ? static_cast<uint32_t>(_random() % 3) : awkward(_random);
        wqe.hdr.opcode = static_cast<uint32_t>(_random() % (wr_reg_sig_mr + 2));
        wqe.hdr.send_flags = static_cast<uint32_t>(_random() % 32);
        wqe.hdr.ex = _random() % 4 ? _key : awkward(_random);
        if (wqe.hdr.opcode == wr_fast_reg_mr) {
            wqe.hdr.wr.fast_reg = {0x1000, address(), 12, awkward(_random) % 200, awkward(_random), 15,
                                   _key,   0};
        } else if (_type == qpt_ud) {
            wqe.hdr.wr.ud = {_qps[0].qpn, known_qkey, Av{.port_pd = 1u << 24 | _pd}};
        } else {
            wqe.hdr.wr.rdma = {0x1000 + _random() % 0x8000, _random() % 8 ? _key : awkward(_random), 0};
        }
        for (Sge& sge : wqe.sge) {
            sge = {0x1000 + _random() % 0x8000, awkward(_random) % 5000,
                   _random() % 8 ? _key : awkward(_random)};
        }
        put(qp.sq + tail % queue_depth * queue_entry, wqe);
        tail = _random() % 16 ? (tail + 1) % (2 * queue_depth) : awkward(_random);
        put(qp.state, tail);
        ring(uar_qp_offset, uar_qp_send | uar_qp_recv | (_random() % 8 ? qp.handle : awkward(_random) & 0xffffff));
    }

    // MSI-X messages that write the device's own registers and doorbells, memory
    // of ours, or nothing that is there.
    void aim_interrupts()
    {
        auto table = _function.bar(0);
        for (unsigned vector = 0; vector < 3; ++vector) {
            uint64_t target;
            uint32_t value;
            switch (_random() % 5) {
            case 0:
                target = _function.bar_address(registers) + reg_ctl;
                value = ctl_reset;
                break;
            case 1:
                target = _function.bar_address(registers) + reg_request;
                value = 0;
                break;
            case 2:
                target = _function.bar_address(doorbells) + uar_qp_offset;
                value = uar_qp_send | _qps[0].handle;
                break;
            case 3:
                target = _memory.physical() + _random() % (DmaMemory::size / 4) * 4;
                value = awkward(_random);
                break;
            default:
                target = uint64_t{1} << 62;
                value = awkward(_random);
            }
            // Address, data, vector control (PCI 3.0, 6.8.2).
            table[vector * 4] = static_cast<uint32_t>(target);
            table[vector * 4 + 1] = static_cast<uint32_t>(target >> 32);
            table[vector * 4 + 2] = value;
            table[vector * 4 + 3] = 0;
        }
        _function.set_msix(_random() % 8 != 0);
    }

    // Words of any kind, anywhere in the memory that the device has been given.
    // Whole 64-bit words, so that no half of one makes an address of what is
    // not ours.
    void scribble(const std::atomic<bool>& stop)
    {
        Random random(_options.seed + 1);
        auto* words = reinterpret_cast<volatile uint64_t*>(_memory.memory());
        while (!stop) {
            uint64_t value;
            switch (random() % 4) {
            case 0:
                value = random() | uint64_t{1} << 62;
                break;
            case 1:
                value = _memory.physical() + random() % num_pages * page_size;
                break;
            case 2:
                value = random() % 64;
                break;
            default: // two small words: indices, lengths, counts
                value = (1 + random() % 64) << 32 | random() % 64;
            }
            // The first words of a page are ring states, command headers,
            // directories.
            uint64_t word = random() % (page_size / 8);
            words[random() % num_pages * (page_size / 8) + (random() % 2 ? word % 4 : word)] = value;
            for (int pause = 0; pause < 200 && !stop; ++pause) {
                __builtin_ia32_pause();
            }
        }
    }

    const Options& _options;
    Random _random;
    uint32_t _pd = 0;
    uint32_t _cq = 0;
    uint32_t _key = 0;
    uint8_t _type = qpt_rc;
    std::vector<Qp> _qps{2};
    uint64_t _actions = 0;
};

} // namespace

void attack_device(const Options& options)
{
    DeviceAttack(options).run();
}

void attack_from_sends(const Options& options, const SendOptions& send)
{
    DeviceAttack(options).run_from_sends(send);
}

} // namespace hostile
