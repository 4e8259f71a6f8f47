// SPDX-License-Identifier: GPL-2.0-or-later
//
// Devices on one network, one of them hostile. Its guest does what it likes, its
// packets are changed on the way, and the victim's program has a connection with
// it. Another connection of the victim's, with a friend, over the same network and
// with loss, must go on undisturbed to the last byte, and memory that the hostile
// one was not given must stay as it was.
//
// The network is one with source guard, as a bridge of virtual machines should
// be: who sends with another's address is not heard. RoCE itself knows no other
// authentication than queue pair numbers, PSNs and keys.
#include <isa-l/crc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "guest_steps.h"
#include "verified_stream.h"
#include "wire.h"

namespace rdma::fuzz {
namespace {

constexpr uint8_t hostile_host = 1;
constexpr uint8_t victim_host = 2;
constexpr uint8_t friend_host = 3;
constexpr uint64_t stream_length = 24; // requests of each side

// Where things are in a frame of RoCEv2 over IPv4.
constexpr size_t at_ip = sizeof(roce::EthernetHeader);
constexpr size_t at_udp = at_ip + sizeof(roce::Ipv4Header);
constexpr size_t at_bth = at_udp + sizeof(roce::UdpHeader);
constexpr size_t at_extended = at_bth + sizeof(roce::Bth);

using Frame = std::vector<uint8_t>;

// A17.3.3, by itself: the fields that routers change count as ones.
void seal(Frame& frame)
{
    Frame covered(8, 0xff);
    covered.insert(covered.end(), frame.begin() + at_ip, frame.end() - roce::icrc_size);
    auto mask = [&](size_t at, size_t size) {
        std::fill_n(covered.data() + 8 + at - at_ip, size, uint8_t{0xff});
    };
    mask(at_ip + offsetof(roce::Ipv4Header, tos), 1);
    mask(at_ip + offsetof(roce::Ipv4Header, ttl), 1);
    mask(at_ip + offsetof(roce::Ipv4Header, checksum), 2);
    mask(at_udp + offsetof(roce::UdpHeader, checksum), 2);
    mask(at_bth + offsetof(roce::Bth, congestion), 1);
    uint32_t icrc = crc32_gzip_refl(0, covered.data(), covered.size());
    std::memcpy(frame.data() + frame.size() - roce::icrc_size, &icrc, sizeof(icrc));
}

class PairFuzz {
public:
    explicit PairFuzz(FuzzedDataProvider& data)
        : _data(data), _random(data.ConsumeIntegral<uint32_t>() | 1)
    {
        for (Machine* machine : _machines) {
            machine->on_send = [this, machine](std::span<const uint8_t> frame) {
                _wire.push_back({machine->host(), {frame.begin(), frame.end()}});
            };
            machine->bring_up();
            machine->bind_gid(0, machine->host());
        }
        _stream.emplace(_victim, _friend);
        set_up_connection();
    }

    void run()
    {
        while (_data.remaining_bytes() > 0) {
            hostile_step();
            deliver();
            _victim.drain(_cq);
            if (_stream->step(stream_length)) {
                _losses = 0;
            }
            deliver();
        }
        finish();
    }

private:
    using Canary = std::array<uint8_t, page_size>;
    static Canary canary()
    {
        Canary bytes;
        bytes.fill(0xc5);
        return bytes;
    }

    // The victim's side of its connection with the hostile one: a PD, a CQ and
    // a region of their own, between pages of nobody.
    void set_up_connection()
    {
        uint32_t pd = _victim.create_pd();
        uint32_t cq;
        _cq = _victim.create_cq(64, cq);
        std::vector<uint64_t> pages;
        for (uint32_t i = 0; i < region_pages; ++i) {
            pages.push_back(_victim.page());
            _victim.put(_canaries.emplace_back(_victim.page()), canary());
        }
        _mr = _victim.register_memory(pd, pages, region_iova);
        _qp = _victim.create_qp(qpt_rc, pd, cq);
        _guest.set_up_program(victim_host, _qp.qpn);
        connect();
    }
    void connect()
    {
        _victim.connect(_qp, qpt_rc, hostile_host, _guest.qps().front().qpn, 0);
        for (int i = 0; i < 4; ++i) {
            _victim.post_recv(_qp, region_iova + 1, 3000, _mr.lkey);
        }
    }

    void hostile_step()
    {
        switch (_data.ConsumeIntegralInRange(0, 15)) {
        case 0:
            _guest.lie_about_ring();
            break;
        case 1:
            _guest.change_memory();
            break;
        case 2:
            _guest.use_object();
            break;
        case 3:
            _guest.create();
            break;
        case 4:
            _guest.change_world();
            break;
        case 5:
            post_of_victim();
            break;
        case 6:
            advance(_data.ConsumeIntegralInRange<int64_t>(0, 5'000'000));
            break;
        case 7:
            _victim.post_recv(_qp, region_iova + 1, 3000, _mr.lkey);
            break;
        case 8:
            revive();
            break;
        case 9:
        case 10:
            _mutations = _data.ConsumeIntegralInRange(0u, 4u);
            break;
        default:
            _guest.post();
        }
    }

    // The victim uses its connection with the hostile one.
    void post_of_victim()
    {
        static constexpr uint32_t opcodes[] = {wr_send, wr_rdma_write, wr_rdma_read, wr_fetch_add};
        struct {
            SqWqeHdr hdr;
            Sge sge;
        } wqe{};
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = _data.PickValueInArray(opcodes);
        wqe.hdr.wr.atomic.remote_addr = region_iova + 16;
        bool atomic = wqe.hdr.opcode == wr_fetch_add;
        uint32_t length = atomic ? 8 : _data.ConsumeIntegralInRange(0u, 3000u);
        wqe.sge = {region_iova + 1, length, _mr.lkey};
        _victim.publish(_qp.sq, &wqe, sizeof(wqe));
        _victim.ring(1, uar_qp_offset, uar_qp_send | _qp.handle);
    }

    // A connection that has failed is made anew.
    void revive()
    {
        _victim.execute(cmd_query_qp, CmdHandle{.handle = _qp.handle});
        if (_victim.response<RespQueryQp>().attrs.qp_state != 6) { // IBV_QPS_ERR
            return;
        }
        _victim.execute(cmd_modify_qp, CmdModifyQp{.qp_handle = _qp.handle, .attr_mask = 1});
        for (const Ring& ring : {_qp.sq, _qp.rq}) {
            _victim.put(ring.state, RingState{});
        }
        connect();
    }

    void advance(int64_t nanoseconds)
    {
        for (Machine* machine : _machines) {
            machine->advance(nanoseconds);
        }
        deliver();
    }

    // What waits on the wire, and what that leads to, to a bound.
    void deliver()
    {
        for (int i = 0; i < 500 && !_wire.empty(); ++i) {
            auto [from, frame] = std::move(_wire.front());
            _wire.pop_front();
            bool hostile = from == hostile_host;
            if (hostile && !has_own_source(frame)) {
                continue;
            }
            if (hostile && _mutations > 0 && _data.remaining_bytes() > 0) {
                --_mutations;
                mutate(frame);
            }
            uint8_t to = frame[5];
            bool honest = !hostile && to != hostile_host;
            // Loss and disorder, but not so much that the retry counter of an
            // honest requester could be used up.
            if (honest && _losses < 5 && random() % 16 == 0) {
                ++_losses;
                if (random() % 2) {
                    _wire.push_back({from, std::move(frame)});
                }
                continue;
            }
            for (Machine* machine : _machines) {
                if (machine->host() == to) {
                    machine->receive(frame);
                }
            }
        }
    }

    static bool has_own_source(const Frame& frame)
    {
        static constexpr uint8_t own[] = {10, 0, 0, hostile_host};
        return frame.size() >= at_extended + roce::icrc_size && frame[11] == hostile_host &&
               frame[at_ip - 2] == 8 && frame[at_ip - 1] == 0 &&
               std::equal(std::begin(own), std::end(own),
                          frame.begin() + at_ip + offsetof(roce::Ipv4Header, source));
    }

    // One field of the transport's headers is another; the ICRC is right again.
    void mutate(Frame& frame)
    {
        size_t end = frame.size() - roce::icrc_size;
        switch (_data.ConsumeIntegralInRange(0, 5)) {
        case 0:
            frame[at_bth] = _data.ConsumeIntegralInRange<uint8_t>(0, 0x1f);
            break;
        case 1: // PSN
            frame[at_extended - 1] =
                static_cast<uint8_t>(frame[at_extended - 1] + _data.ConsumeIntegral<int8_t>());
            break;
        case 2: // QP: perhaps that of the verified stream
            frame[at_bth + 7] = _data.ConsumeIntegralInRange<uint8_t>(0, 4);
            break;
        case 3:
        case 4: { // address, key, length, syndrome
            size_t at = at_extended + _data.ConsumeIntegralInRange<size_t>(0, 27);
            if (at < end) {
                frame[at] = _data.ConsumeIntegral<uint8_t>();
            }
            break;
        }
        default: { // shorter; IP and UDP still say how long it was
            size_t size = _data.ConsumeIntegralInRange<size_t>(at_extended, end);
            frame.resize(size + roce::icrc_size);
        }
        }
        seal(frame);
    }

    // The hostile one falls silent: the rest of the stream must come, in time.
    void finish()
    {
        for (int i = 0; i < 2000 && !_stream->done(stream_length); ++i) {
            if (_stream->step(stream_length)) {
                _losses = 0;
            }
            for (Machine* machine : {&_victim, &_friend}) {
                machine->advance(1'000'000);
            }
            deliver();
        }
        if (!_stream->done(stream_length)) {
            std::fprintf(stderr, "the verified stream has stopped\n");
            abort();
        }
        for (uint64_t gpa : _canaries) {
            if (_victim.get<Canary>(gpa) != canary()) {
                std::fprintf(stderr, "memory outside of the region was written\n");
                abort();
            }
        }
    }

    uint32_t random()
    {
        _random = _random * 1664525 + 1013904223;
        return _random >> 16;
    }

    FuzzedDataProvider& _data;
    uint32_t _random;
    Machine _hostile{hostile_host};
    Machine _victim{victim_host};
    Machine _friend{friend_host};
    std::array<Machine*, 3> _machines{&_hostile, &_victim, &_friend};
    GuestSteps _guest{_data, _hostile};
    struct OnWire {
        uint8_t from;
        Frame frame;
    };
    std::deque<OnWire> _wire;
    std::optional<VerifiedStream> _stream;
    Ring _cq;
    RespCreateMr _mr{};
    GuestQp _qp;
    std::vector<uint64_t> _canaries;
    unsigned _mutations = 0; // of the hostile one's next frames
    unsigned _losses = 0;    // of the stream's, since the last completion
};

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::PairFuzz(data).run();
    return 0;
}
