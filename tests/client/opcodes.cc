// SPDX-License-Identifier: GPL-2.0-or-later
#include <functional>

#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

constexpr unsigned max_pieces = 16;
constexpr size_t page = 4096;
constexpr size_t largest = 1 << 20;
// Memory for a message of any size here, in pieces, with room around each.
constexpr size_t capacity = largest + (2 * max_pieces + 2) * page;
// Bytes by which a receive is longer than its message.
constexpr size_t slack = 5;

struct Piece {
    size_t offset;
    size_t length;
};

// A message's pieces: each begins an odd number of bytes before a page's end.
std::vector<Piece> split(size_t size, unsigned count)
{
    std::vector<Piece> pieces;
    count = static_cast<unsigned>(std::min<size_t>(count, size));
    size_t cursor = page;
    size_t left = size;
    for (unsigned i = 0; i < count; ++i) {
        size_t length = i + 1 == count ? left : size / count - (i % 2 && size / count > 1);
        size_t odd = 2 * i + 1;
        size_t offset = (cursor + odd + page - 1) / page * page - odd;
        pieces.push_back({offset, length});
        cursor = offset + length;
        left -= length;
    }
    return pieces;
}

std::vector<ibv_sge> sges(const Buffer& buffer, std::span<const Piece> pieces)
{
    std::vector<ibv_sge> list;
    for (const Piece& piece : pieces) {
        list.push_back(buffer.sge(piece.offset, piece.length));
    }
    return list;
}

void fill_pieces(const Buffer& buffer, std::span<const Piece> pieces, uint64_t seed)
{
    size_t done = 0;
    for (const Piece& piece : pieces) {
        fill(buffer.bytes().subspan(piece.offset, piece.length), seed, done);
        done += piece.length;
    }
}

// The pieces hold the stream up to size, and nothing else has been written.
void check_pieces(const Buffer& buffer, std::span<const Piece> pieces, size_t size, uint64_t seed,
                  const char* what)
{
    size_t done = 0;
    size_t cursor = 0;
    for (const Piece& piece : pieces) {
        size_t length = std::min(piece.length, size - done);
        check_untouched(buffer.bytes().subspan(cursor, piece.offset - cursor), what);
        check(buffer.bytes().subspan(piece.offset, length), seed, done, what);
        cursor = piece.offset + length;
        done += length;
    }
    check_untouched(buffer.bytes().subspan(cursor), what);
}

class Opcodes {
public:
    explicit Opcodes(Peer& peer)
        : _peer(peer), _local(peer.device, capacity), _target(peer.device, capacity),
          _cq(peer.device.create_cq(16)),
          _qp(peer.device.create_qp(IBV_QPT_RC, _cq.get(), _cq.get(),
                                    {8, 8, max_pieces, max_pieces, 0}))
    {
        QpAddress ours = address_of(peer.device, *_qp);
        QpAddress theirs = peer.control.exchange(ours);
        connect(peer.device, _qp.get(), ours, theirs);
        _mtu = mtu_bytes(std::min(ours.mtu, theirs.mtu));
        struct Target {
            uint64_t address;
            uint32_t rkey;
        };
        auto target = peer.control.exchange(Target{_target.address(), _target.rkey()});
        _remote_address = target.address;
        _rkey = target.rkey;
    }

    void run()
    {
        const size_t sizes[] = {0, 1, _mtu - 1, _mtu, _mtu + 1, 65536, largest};
        for (ibv_wr_opcode opcode :
             {IBV_WR_SEND, IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM,
              IBV_WR_RDMA_READ}) {
            for (size_t size : sizes) {
                for (unsigned pieces : {1u, max_pieces}) {
                    transfer(opcode, size, pieces);
                }
            }
        }
        atomic(IBV_WR_ATOMIC_CMP_AND_SWP, 5, 5, 9, 9);
        atomic(IBV_WR_ATOMIC_CMP_AND_SWP, 5, 6, 9, 5);
        atomic(IBV_WR_ATOMIC_CMP_AND_SWP, ~0ull, ~0ull, 1ull << 63, 1ull << 63);
        atomic(IBV_WR_ATOMIC_FETCH_AND_ADD, 5, 7, 0, 12);
        atomic(IBV_WR_ATOMIC_FETCH_AND_ADD, ~0ull, 2, 0, 1);
        atomic(IBV_WR_ATOMIC_FETCH_AND_ADD, 1ull << 63, 1ull << 32, 0, (1ull << 63) + (1ull << 32));
        _peer.control.barrier();
        expect_empty(_cq.get());
        fmt::print("opcodes: {} cases\n", _case);
    }

private:
    ibv_send_wr request(ibv_wr_opcode opcode, std::vector<ibv_sge>& list)
    {
        ibv_send_wr wr{};
        wr.wr_id = wr_id();
        wr.opcode = opcode;
        wr.send_flags = IBV_SEND_SIGNALED;
        wr.sg_list = list.data();
        wr.num_sge = static_cast<int>(list.size());
        wr.imm_data = immediate();
        return wr;
    }
    uint64_t wr_id() const { return 0xabcd'0000'0000'0000 + _case; }
    uint32_t immediate() const { return static_cast<uint32_t>(mix(_case)); }

    void transfer(ibv_wr_opcode opcode, size_t size, unsigned count)
    {
        ++_case;
        std::string name = fmt::format("opcode {}, {} bytes, {} pieces", static_cast<int>(opcode),
                                       size, count);
        auto pieces = split(size, count);
        size_t target_offset = page - 3; // odd, over a page's end
        bool is_send = opcode == IBV_WR_SEND || opcode == IBV_WR_SEND_WITH_IMM;
        bool consumes = is_send || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
        bool is_read = opcode == IBV_WR_RDMA_READ;

        if (_peer.is_client) {
            if (is_read) {
                poison(_local.bytes());
            } else {
                fill_pieces(_local, pieces, _case);
            }
            _peer.control.barrier(); // the server is ready
            auto list = sges(_local, pieces);
            auto wr = request(opcode, list);
            wr.wr.rdma = {_remote_address + target_offset, _rkey};
            post_send(_qp.get(), wr);
            ibv_wc wc = expect_completion(_cq.get(), wr_id());
            ibv_wc_opcode expected = is_send ? IBV_WC_SEND
                                     : is_read ? IBV_WC_RDMA_READ
                                               : IBV_WC_RDMA_WRITE;
            expect(wc.opcode == expected, "{}: completed as {}", name, static_cast<int>(wc.opcode));
            expect(wc.qp_num == _qp->qp_num, "{}: completion of QP {}", name, wc.qp_num);
            if (is_read) {
                check_pieces(_local, pieces, size, _case, name.c_str());
            }
            _peer.control.barrier(); // done: the server looks
        } else {
            std::vector<Piece> receive{{target_offset, size}};
            poison(_target.bytes());
            if (is_read) {
                fill(_target.bytes().subspan(target_offset, size), _case);
            }
            if (is_send) {
                receive = split(size + slack, count);
            }
            if (consumes) {
                auto list = is_send ? sges(_target, receive) : std::vector<ibv_sge>{};
                post_recv(_qp.get(), wr_id(), list);
            }
            _peer.control.barrier();
            if (consumes) {
                check_receive(expect_completion(_cq.get(), wr_id()), opcode, size, name);
            }
            _peer.control.barrier();
            check_pieces(_target, receive, size, _case, name.c_str());
        }
        expect_empty(_cq.get());
    }

    void check_receive(const ibv_wc& wc, ibv_wr_opcode opcode, size_t size, const std::string& name)
    {
        bool immediate_given = opcode != IBV_WR_SEND;
        expect(wc.opcode == (opcode == IBV_WR_RDMA_WRITE_WITH_IMM ? IBV_WC_RECV_RDMA_WITH_IMM
                                                                  : IBV_WC_RECV),
               "{}: received as {}", name, static_cast<int>(wc.opcode));
        expect(wc.byte_len == size, "{}: {} bytes received", name, wc.byte_len);
        expect(bool(wc.wc_flags & IBV_WC_WITH_IMM) == immediate_given, "{}: flags {:#x}", name,
               wc.wc_flags);
        expect(!immediate_given || wc.imm_data == immediate(), "{}: immediate {:#x}", name,
               wc.imm_data);
        expect(wc.qp_num == _qp->qp_num, "{}: completion of QP {}", name, wc.qp_num);
    }

    void atomic(ibv_wr_opcode opcode, uint64_t before, uint64_t compare_add, uint64_t swap,
                uint64_t after)
    {
        ++_case;
        std::string name = fmt::format("atomic {} on {:#x}", static_cast<int>(opcode), before);
        constexpr size_t offset = page - 8;
        uint64_t value = before;
        if (_peer.is_client) {
            constexpr size_t odd = page - 3;
            poison(_local.bytes());
            _peer.control.barrier();
            std::vector<ibv_sge> list{_local.sge(odd, 8)};
            auto wr = request(opcode, list);
            wr.wr.atomic = {_remote_address + offset, compare_add, swap, _rkey};
            post_send(_qp.get(), wr);
            ibv_wc wc = expect_completion(_cq.get(), wr_id());
            expect(wc.opcode == (opcode == IBV_WR_ATOMIC_CMP_AND_SWP ? IBV_WC_COMP_SWAP
                                                                     : IBV_WC_FETCH_ADD),
                   "{}: completed as {}", name, static_cast<int>(wc.opcode));
            std::memcpy(&value, &_local.bytes()[odd], sizeof(value));
            expect(value == before, "{}: {:#x} returned", name, value);
            check_untouched(_local.bytes().first(odd), name.c_str());
            check_untouched(_local.bytes().subspan(odd + 8), name.c_str());
            _peer.control.barrier();
        } else {
            poison(_target.bytes());
            std::memcpy(&_target.bytes()[offset], &before, sizeof(before));
            _peer.control.barrier();
            _peer.control.barrier();
            std::memcpy(&value, &_target.bytes()[offset], sizeof(value));
            expect(value == after, "{}: became {:#x} instead of {:#x}", name, value, after);
            check_untouched(_target.bytes().first(offset), name.c_str());
            check_untouched(_target.bytes().subspan(offset + 8), name.c_str());
        }
        expect_empty(_cq.get());
    }

    Peer& _peer;
    Buffer _local;
    Buffer _target;
    OwnedCq _cq;
    OwnedQp _qp;
    size_t _mtu = 0;
    uint64_t _remote_address = 0;
    uint32_t _rkey = 0;
    uint64_t _case = 0;
};

} // namespace

void verify_opcodes(Peer& peer)
{
    Opcodes(peer).run();
}

} // namespace verify
