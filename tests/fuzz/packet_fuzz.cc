// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the network may send: frames as they come, and frames with right
// addresses, lengths and ICRC around headers and payloads of any kind, to QPs
// of every type that have requests of their own outstanding, while the VM runs
// and while it is stopped.
#include <fuzzer/FuzzedDataProvider.h>
#include <infiniband/verbs.h>

#include <cstdlib>
#include <cstring>

#include "machine.h"
#include "frame_builder.h"
#include "packet.h"

namespace rdma::fuzz {
namespace {

constexpr uint8_t own_host = 1;
constexpr uint8_t peer_host = 2;
constexpr uint32_t first_psn = 0xfffff8; // PSNs wrap soon
constexpr uint64_t iova = 0x7f00'0000'0ff0;
constexpr uint32_t mr_pages = 4;
constexpr uint64_t iova_end = iova + mr_pages * page_size - iova % page_size;
constexpr uint32_t mtu = 256;
constexpr std::array types = {qpt_rc, qpt_uc, qpt_ud, qpt_gsi};

ibv_gid gid_of(uint8_t host)
{
    ibv_gid gid{};
    gid.raw[10] = gid.raw[11] = 0xff;
    gid.raw[12] = 10;
    gid.raw[15] = host;
    return gid;
}

class PacketFuzz {
public:
    explicit PacketFuzz(FuzzedDataProvider& data) : _data(data)
    {
        _m.bring_up();
        _m.bind_gid(0, own_host);
        _pd = _m.create_pd();
        _cq = _m.create_cq(64, _cq_handle);
        // Pages of the region with pages of nobody between them.
        for (uint32_t i = 0; i < mr_pages; ++i) {
            _pages.push_back(_m.page());
            _canaries.push_back(_m.page());
        }
        for (uint64_t canary : _canaries) {
            _m.put(canary, canary_pattern());
        }
        _mr = _m.register_memory(_pd, _pages, iova);
        for (uint8_t type : types) {
            GuestQp& qp = _qps.emplace_back(_m.create_qp(type, _pd, _cq_handle));
            _m.connect(qp, type, peer_host, 0x1234, first_psn);
            for (int i = 0; i < 4; ++i) {
                _m.post_recv(qp, iova + 1, 3000, _mr.lkey);
            }
        }
        if (_m.read_register(reg_err) != 0) {
            abort(); // this test is wrong
        }
    }

    void run()
    {
        while (_data.remaining_bytes() > 0) {
            switch (_data.ConsumeIntegralInRange(0, 11)) {
            case 0: {
                auto bytes =
                    _data.ConsumeBytes<uint8_t>(_data.ConsumeIntegralInRange<size_t>(0, 300));
                _m.receive(bytes);
                _m.observe_sent(bytes);
                break;
            }
            case 1:
                _m.advance(_data.ConsumeIntegralInRange<int64_t>(0, 2'000'000));
                break;
            case 2:
                post();
                break;
            case 3:
                _m.post_recv(pick_qp(), address(), _data.ConsumeIntegralInRange(0u, 20000u),
                             _mr.lkey);
                break;
            case 4:
                _m.drain(_cq);
                _m.drain_events();
                break;
            case 5:
                _m.set_network_full(_data.ConsumeBool());
                break;
            case 6:
                _m.ring(1, uar_cq_offset,
                        _cq_handle | (_data.ConsumeBool() ? uar_cq_arm : uar_cq_arm_solicited));
                break;
            case 7:
                connection_message();
                break;
            case 8:
                pause();
                break;
            default:
                send(frame());
            }
        }
        _m.set_network_full(false);
        for (uint64_t canary : _canaries) {
            if (_m.get<Canary>(canary) != canary_pattern()) {
                abort(); // memory outside of the region was written
            }
        }
    }

private:
    struct Wqe {
        SqWqeHdr hdr;
        Sge sge;
    };
    using Canary = std::array<uint8_t, page_size>;
    static Canary canary_pattern()
    {
        Canary pattern;
        pattern.fill(0xc5);
        return pattern;
    }

    bool rarely() { return _data.ConsumeIntegralInRange(0, 31) == 31; }
    // The RC QP is the one where most can go wrong.
    size_t pick()
    {
        size_t index = _data.ConsumeIntegralInRange<size_t>(0, 7);
        return index < types.size() ? index : 0;
    }
    const GuestQp& pick_qp() { return _qps[pick()]; }
    uint64_t address()
    {
        switch (_data.ConsumeIntegralInRange(0, 15)) {
        case 15:
            return _data.ConsumeIntegral<uint64_t>();
        case 14:
            return iova - 8 + _data.ConsumeIntegralInRange(0u, 16u);
        case 13:
        case 12:
            return iova_end - _data.ConsumeIntegralInRange(0u, 2 * mtu);
        default:
            return iova + _data.ConsumeIntegralInRange(0u, 3 * uint32_t{page_size});
        }
    }
    uint32_t key(uint32_t right) { return rarely() ? _data.ConsumeIntegral<uint32_t>() : right; }

    void post()
    {
        size_t index = pick();
        Wqe wqe{};
        wqe.hdr.wr_id = 2;
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = _data.ConsumeIntegralInRange<uint32_t>(0, wr_send_inv);
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        if (types[index] == qpt_ud || types[index] == qpt_gsi) {
            wqe.hdr.opcode = rarely() ? wqe.hdr.opcode : +wr_send;
            wqe.hdr.wr.ud = {1, 0x11111111, Machine::address_vector(peer_host, _pd)};
        } else {
            wqe.hdr.wr.atomic.remote_addr = iova + 16;
        }
        wqe.sge = {address(), _data.ConsumeIntegralInRange(0u, 2000u), key(_mr.lkey)};
        publish(_qps[index], wqe);
    }

    // What the guest's connection manager sends: the device reads it.
    void connection_message()
    {
        static constexpr uint8_t communication_management = 0x07;
        std::array<uint8_t, 256> mad{};
        _data.ConsumeData(mad.data(), mad.size());
        mad[1] = rarely() ? mad[1] : communication_management;
        mad[16] = rarely() ? mad[16] : 0;
        mad[17] = _data.PickValueInArray<uint8_t>({0x10, 0x13, 0x14}); // REQ, REP, RTU
        _m.put(_pages[1], mad);
        Wqe wqe{};
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = wr_send;
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        wqe.hdr.wr.ud = {1, 0x80010000, Machine::address_vector(peer_host, _pd)};
        uint32_t length = rarely() ? _data.ConsumeIntegralInRange(0u, 300u) : uint32_t{mad.size()};
        wqe.sge = {iova + page_size - iova % page_size, length, _mr.lkey};
        publish(_qps.back(), wqe);
    }

    void publish(const GuestQp& qp, const Wqe& wqe)
    {
        _m.publish(qp.sq, &wqe, sizeof(wqe));
        _m.ring(1, uar_qp_offset, uar_qp_send | qp.handle);
    }

    // The device's state, in a new one that has not started yet.
    void move()
    {
        auto state = _m.save();
        _m.unplug();
        _m.plug();
        _m.stop();
        if (!_m.load(state).empty()) {
            abort(); // what a device saves it takes
        }
    }
    // Frames that come while the VM is stopped.
    void pause()
    {
        std::vector<std::vector<uint8_t>> frames;
        do {
            frames.push_back(frame());
        } while (_data.ConsumeBool());
        _m.stop();
        if (_data.ConsumeBool()) {
            move();
        }
        for (const auto& each : frames) {
            send(each);
        }
        _m.start();
    }

    // What the peer has sent of a message.
    struct Message {
        enum class Kind : uint8_t { none, send, write } kind;
        uint32_t remaining; // of a WRITE
    };

    // A frame of a peer that mostly knows what it does: the packet after the
    // last one, as the QP itself says. Empty: the QP had to be connected anew.
    std::vector<uint8_t> frame()
    {
        size_t index = pick();
        GuestQp& qp = _qps[index];
        uint8_t type = types[index];
        CmdHandle query{.handle = qp.handle};
        _m.execute(cmd_query_qp, query);
        QpAttr attr = _m.response<RespQueryQp>().attrs;
        if (attr.qp_state == IBV_QPS_ERR && !rarely()) {
            revive(index);
            return {};
        }
        static constexpr uint8_t transports[] = {roce::transport_rc, roce::transport_uc,
                                                 roce::transport_ud};
        uint8_t transport = type == qpt_rc   ? roce::transport_rc
                            : type == qpt_uc ? roce::transport_uc
                                             : roce::transport_ud;
        if (rarely()) {
            transport = _data.PickValueInArray(transports);
        }
        Message& message = _messages[index];
        uint8_t op = operation(transport, message);
        uint32_t psn = attr.rq_psn;
        if (is_response(op)) {
            psn = attr.sq_psn - 1 - _data.ConsumeIntegralInRange(0u, 3u);
        } else if (_data.ConsumeIntegralInRange(0, 7) == 7) {
            psn -= _data.ConsumeIntegralInRange(0u, 12u); // again
        } else if (rarely()) {
            psn = _data.ConsumeIntegral<uint32_t>();
        }
        uint32_t qpn = rarely() ? _data.ConsumeIntegral<uint32_t>() : qp.qpn;
        roce::Path path(NetworkType::ipv4, {0x52, 0x54, 0, 0, 0, peer_host},
                        {0x52, 0x54, 0, 0, 0, 1}, gid_of(peer_host), gid_of(own_host),
                        _data.ConsumeIntegral<uint8_t>(), 0, 64, 0xc000);
        roce::FrameBuilder builder;
        uint16_t vlan = rarely() ? _data.ConsumeIntegralInRange<uint16_t>(0, 4095) : roce::no_vlan;
        builder.begin(path, vlan, transport | op, qpn & 0xffffff, roce::Psn(psn),
                      _data.ConsumeBool(), _data.ConsumeBool());
        size_t size = headers(builder, transport, op, message);
        auto payload = builder.payload(size);
        std::memset(payload.data(), 0x33, payload.size());
        auto finished = builder.finish();
        return {finished.begin(), finished.end()};
    }

    void revive(size_t index)
    {
        const GuestQp& qp = _qps[index];
        _m.execute(cmd_modify_qp, CmdModifyQp{.qp_handle = qp.handle,
                                              .attr_mask = IBV_QP_STATE,
                                              .attrs = {.qp_state = IBV_QPS_RESET}});
        for (const Ring& ring : {qp.sq, qp.rq}) {
            _m.put(ring.state, RingState{});
        }
        _m.connect(qp, types[index], peer_host, 0x1234, first_psn);
        _messages[index] = {};
        for (int i = 0; i < 4; ++i) {
            _m.post_recv(qp, iova + 1, 3000, _mr.lkey);
        }
    }

    static bool is_response(uint8_t op)
    {
        return op >= roce::op_read_response_first && op <= roce::op_atomic_acknowledge;
    }

    uint8_t operation(uint8_t transport, const Message& message)
    {
        using namespace roce;
        if (rarely()) {
            return _data.ConsumeIntegralInRange<uint8_t>(0, 0x1f);
        }
        if (transport == transport_ud) {
            return _data.ConsumeBool() ? op_send_only : op_send_only_imm;
        }
        bool reliable = transport == transport_rc;
        static constexpr uint8_t send_next[] = {op_send_middle, op_send_last, op_send_last_imm,
                                                op_send_last_inv};
        static constexpr uint8_t alone[] = {
            op_send_first,     op_send_only,    op_send_only_imm, op_write_first, op_write_only,
            op_write_only_imm, op_read_request, op_compare_swap,  op_fetch_add,   op_send_only_inv};
        static constexpr uint8_t answers[] = {op_read_response_first, op_read_response_middle,
                                              op_read_response_last,  op_read_response_only,
                                              op_acknowledge,         op_atomic_acknowledge};
        if (reliable && _data.ConsumeIntegralInRange(0, 3) == 0) {
            return _data.PickValueInArray(answers);
        }
        switch (message.kind) {
        case Message::Kind::send:
            return send_next[_data.ConsumeIntegralInRange<size_t>(0, reliable ? 3 : 2)];
        case Message::Kind::write:
            if (message.remaining > mtu) {
                return op_write_middle;
            }
            return _data.ConsumeBool() ? op_write_last : op_write_last_imm;
        case Message::Kind::none:
            break;
        }
        return alone[_data.ConsumeIntegralInRange<size_t>(0, reliable ? 9 : 5)];
    }

    // The extended headers; returns the size that the payload should have.
    size_t headers(roce::FrameBuilder& builder, uint8_t transport, uint8_t op, Message& message)
    {
        using namespace roce;
        if (transport == transport_ud) {
            builder.header(Deth{key(0x11111111), 0, 0x77});
            if (op == op_send_only_imm) {
                builder.header(ImmDt{{0x12, 0x34, 0x56, 0x78}});
            }
            return payload_size(_data.ConsumeIntegralInRange<size_t>(0, mtu));
        }
        size_t size = _data.ConsumeIntegralInRange<size_t>(1, mtu);
        switch (op) {
        case op_send_first:
            message = {Message::Kind::send, 0};
            [[fallthrough]];
        case op_send_middle:
        case op_read_response_middle:
            size = mtu;
            break;
        case op_write_first:
        case op_write_only:
        case op_write_only_imm: {
            bool first = op == op_write_first;
            auto length =
                static_cast<uint32_t>(first ? mtu + _data.ConsumeIntegralInRange(1u, 1000u) : size);
            builder.header(Reth{address(), key(_mr.rkey), length});
            size = first ? mtu : size;
            message = {first ? Message::Kind::write : Message::Kind::none, length - mtu};
            break;
        }
        case op_write_middle:
            message.remaining -= mtu;
            size = mtu;
            break;
        case op_write_last:
        case op_write_last_imm:
            size = message.remaining;
            message = {};
            break;
        case op_send_last:
        case op_send_last_imm:
        case op_send_last_inv:
            message = {};
            break;
        case op_read_request:
            builder.header(Reth{address(), key(_mr.rkey), _data.ConsumeIntegralInRange(0u, 5000u)});
            size = 0;
            break;
        case op_compare_swap:
        case op_fetch_add:
            builder.header(AtomicEth{address(), key(_mr.rkey), _data.ConsumeIntegral<uint64_t>(),
                                     _data.ConsumeIntegral<uint64_t>()});
            size = 0;
            break;
        case op_read_response_first:
            size = mtu;
            [[fallthrough]];
        case op_read_response_last:
        case op_read_response_only:
            builder.header(Aeth{0, 0});
            break;
        case op_acknowledge:
        case op_atomic_acknowledge:
            builder.header(Aeth{_data.ConsumeIntegral<uint8_t>(), 0});
            size = 0;
            if (op == op_atomic_acknowledge) {
                builder.header(AtomicAckEth{_data.ConsumeIntegral<uint64_t>()});
            }
            break;
        default:
            break;
        }
        if (op == op_send_only_imm || op == op_send_last_imm || op == op_write_only_imm ||
            op == op_write_last_imm) {
            builder.header(ImmDt{{0x12, 0x34, 0x56, 0x78}});
        } else if (op == op_send_only_inv || op == op_send_last_inv) {
            builder.header(Ieth{_data.ConsumeIntegral<uint32_t>()});
        }
        return payload_size(size);
    }
    size_t payload_size(size_t right)
    {
        size_t most = _data.ConsumeBool() ? mtu : roce::max_mtu;
        return _data.ConsumeIntegralInRange(0, 7) == 7
                   ? _data.ConsumeIntegralInRange<size_t>(0, most)
                   : std::min<size_t>(right, roce::max_mtu);
    }

    void send(std::span<const uint8_t> frame)
    {
        if (frame.empty() || !rarely()) {
            _m.receive(frame);
            return;
        }
        std::vector<uint8_t> spoilt(frame.begin(), frame.end());
        spoilt[_data.ConsumeIntegralInRange<size_t>(0, spoilt.size() - 1)] ^= 1;
        _m.receive(std::span(spoilt).first(_data.ConsumeIntegralInRange<size_t>(0, spoilt.size())));
    }

    FuzzedDataProvider& _data;
    Machine _m;
    uint32_t _pd = 0;
    Ring _cq;
    RespCreateMr _mr{};
    std::vector<uint64_t> _pages; // of the region
    std::vector<uint64_t> _canaries;
    std::vector<GuestQp> _qps;
    std::array<Message, types.size()> _messages{};
    uint32_t _cq_handle = 0;
};

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::PacketFuzz(data).run();
    return 0;
}
