// SPDX-License-Identifier: GPL-2.0-or-later
#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

constexpr uint32_t qkey = 0x11111111;
constexpr size_t grh = 40;
constexpr unsigned max_pieces = 16;
constexpr size_t capacity = 64 << 10;

void bring_up(ibv_qp* qp)
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qkey = qkey;
    expect(ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY) == 0,
           "modify UD QP to INIT");
    to_state(qp, IBV_QPS_RTR);
    attr = {};
    attr.qp_state = IBV_QPS_RTS;
    expect(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN) == 0, "modify UD QP to RTS");
}

class Datagrams {
public:
    explicit Datagrams(Peer& peer)
        : _peer(peer), _buffer(peer.device, capacity), _cq(peer.device.create_cq(64)),
          _qp(peer.device.create_qp(IBV_QPT_UD, _cq.get(), _cq.get(),
                                    {16, 16, max_pieces, max_pieces, 0})),
          _theirs(peer.control.exchange(address_of(peer.device, *_qp)))
    {
        bring_up(_qp.get());
        ibv_ah_attr attr{};
        attr.is_global = 1;
        attr.port_num = 1;
        attr.grh.dgid = _theirs.gid;
        attr.grh.sgid_index = static_cast<uint8_t>(peer.device.gid_index());
        attr.grh.hop_limit = 64;
        _ah.reset(ibv_create_ah(peer.device.pd(), &attr));
        expect(_ah != nullptr, "ibv_create_ah");
        _mtu = mtu_bytes(std::min(_theirs.mtu, peer.device.port().active_mtu));
    }

    void run()
    {
        for (size_t size : {size_t{0}, size_t{1}, size_t{100}, _mtu - 1, _mtu}) {
            for (unsigned pieces : {1u, max_pieces}) {
                for (bool immediate : {false, true}) {
                    transfer(size, pieces, immediate);
                }
            }
        }
        dropped();
        fmt::print("datagrams: {} cases\n", _case);
    }

private:
    // Pieces at odd offsets, 1 KiB of room between them.
    std::vector<ibv_sge> split(size_t size, unsigned count, size_t first) const
    {
        std::vector<ibv_sge> list;
        count = static_cast<unsigned>(std::min<size_t>(count, size));
        size_t offset = first;
        for (unsigned i = 0; i < count; ++i) {
            size_t length = i + 1 == count ? size : size / (count - i);
            list.push_back(_buffer.sge(offset, length));
            offset += length + 1024 + (length % 2);
            size -= length;
        }
        return list;
    }

    void send(size_t size, unsigned pieces, bool immediate, uint32_t key)
    {
        auto list = split(size, pieces, 4091);
        size_t done = 0;
        for (const ibv_sge& sge : list) {
            fill({reinterpret_cast<uint8_t*>(sge.addr), sge.length}, _case, done);
            done += sge.length;
        }
        ibv_send_wr wr{};
        wr.wr_id = _case;
        wr.opcode = immediate ? IBV_WR_SEND_WITH_IMM : IBV_WR_SEND;
        wr.imm_data = static_cast<uint32_t>(mix(_case));
        wr.send_flags = IBV_SEND_SIGNALED;
        wr.sg_list = list.data();
        wr.num_sge = static_cast<int>(list.size());
        wr.wr.ud = {_ah.get(), _theirs.qpn, key};
        post_send(_qp.get(), wr);
        ibv_wc wc = expect_completion(_cq.get(), _case);
        expect(wc.opcode == IBV_WC_SEND, "completed as {}", static_cast<int>(wc.opcode));
    }

    void transfer(size_t size, unsigned pieces, bool immediate)
    {
        ++_case;
        std::string name = fmt::format("datagram, {} bytes, {} pieces", size, pieces);
        if (_peer.is_client) {
            _peer.control.barrier();
            send(size, pieces, immediate, qkey);
            _peer.control.barrier();
            return;
        }
        poison(_buffer.bytes());
        // The GRH goes over the pieces like the rest.
        auto list = split(grh + size, pieces, 4091);
        post_recv(_qp.get(), _case, list);
        _peer.control.barrier();
        ibv_wc wc = expect_completion(_cq.get(), _case);
        expect(wc.opcode == IBV_WC_RECV && wc.byte_len == grh + size, "{}: opcode {}, {} bytes",
               name, static_cast<int>(wc.opcode), wc.byte_len);
        expect(wc.src_qp == _theirs.qpn, "{}: from QP {}", name, wc.src_qp);
        expect(wc.wc_flags & IBV_WC_GRH, "{}: no GRH", name);
        expect(bool(wc.wc_flags & IBV_WC_WITH_IMM) == immediate &&
                   (!immediate || wc.imm_data == static_cast<uint32_t>(mix(_case))),
               "{}: immediate data", name);
        size_t at = 0;
        for (const ibv_sge& sge : list) {
            size_t skip = at < grh ? std::min<size_t>(grh - at, sge.length) : 0;
            check({reinterpret_cast<uint8_t*>(sge.addr) + skip, sge.length - skip}, _case,
                  at + skip - grh, name.c_str());
            // Taken out of the picture, so that the rest can be compared.
            poison({reinterpret_cast<uint8_t*>(sge.addr), sge.length});
            at += sge.length;
        }
        check_untouched(_buffer.bytes(), name.c_str());
        expect_empty(_cq.get());
        _peer.control.barrier();
    }

    // A wrong Q_Key, no receive posted: the datagram is lost, the next is not.
    void dropped()
    {
        if (_peer.is_client) {
            _peer.control.barrier();
            ++_case;
            send(64, 1, false, qkey + 1);
            ++_case;
            send(64, 1, false, qkey);
            _peer.control.barrier();
        } else {
            poison(_buffer.bytes());
            auto list = split(grh + 64, 1, 4091);
            post_recv(_qp.get(), 7, list);
            _peer.control.barrier();
            _case += 2;
            expect_completion(_cq.get(), 7);
            check({reinterpret_cast<uint8_t*>(list[0].addr) + grh, 64}, _case, 0,
                  "the datagram behind one with a wrong Q_Key");
            expect_empty(_cq.get());
            _peer.control.barrier();
        }
    }

    Peer& _peer;
    Buffer _buffer;
    OwnedCq _cq;
    OwnedQp _qp;
    QpAddress _theirs;
    OwnedAh _ah;
    size_t _mtu = 0;
    uint64_t _case = 0;
};

} // namespace

void verify_datagrams(Peer& peer)
{
    Datagrams(peer).run();
}

} // namespace verify
