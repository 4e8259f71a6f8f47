// SPDX-License-Identifier: GPL-2.0-or-later
//
// The client makes mistakes, or finds the server badly prepared. Statuses are
// those of IBTA vol. 1, 10.10.3 and 11.6.2.
#include <cstring>
#include <functional>
#include <optional>

#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

constexpr size_t size = 64 << 10;
constexpr unsigned depth = 8;

// What the client does wrong, or finds wrong, and what must come of it.
struct Mistake {
    const char* name;
    ibv_wr_opcode opcode;
    ibv_wc_status status;
    // Changes to a request that would be right.
    std::function<void(ibv_send_wr&, ibv_sge&)> spoil = [](ibv_send_wr&, ibv_sge&) {};
    // The server: the receive it posts.
    enum class Receive { none, good, short_one, bad_key } receive = Receive::none;
    std::optional<ibv_wc_status> receive_status{}; // of that receive
    int server_access = all_access;
    bool server_qp_gone = false;
    QpOptions qp{};
    // rxe's user library refuses a misaligned atomic; its kernel module
    // flushes a request with a local error before that is reported.
    bool rxe_client_deviates = false;
    // rxe takes a receive that is too short, or of no region, for malformed.
    bool rxe_server_deviates = false;
};

bool is_rxe(const Device& device)
{
    return std::string_view(ibv_get_device_name(device.context()->device)).starts_with("rxe");
}

const Mistake mistakes[] = {
    {"WRITE with an unknown R_Key", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR,
     [](auto& wr, auto&) { wr.wr.rdma.rkey ^= 0x5500; }},
    {"WRITE one byte beyond the region", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR,
     [](auto& wr, auto& sge) { wr.wr.rdma.remote_addr += size - sge.length + 1; }},
    {"WRITE below the region", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR,
     [](auto& wr, auto&) { wr.wr.rdma.remote_addr -= 1; }},
    {"WRITE at the end of the address space", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR,
     [](auto& wr, auto&) { wr.wr.rdma.remote_addr = ~0ull - 8; }},
    {"WRITE to a region without remote write", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR,
     [](auto&, auto&) {}, Mistake::Receive::none, {},
     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ},
    {"READ of an unknown R_Key", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR,
     [](auto& wr, auto&) { wr.wr.rdma.rkey ^= 0x5500; }},
    {"READ of a region without remote read", IBV_WR_RDMA_READ, IBV_WC_REM_ACCESS_ERR,
     [](auto&, auto&) {}, Mistake::Receive::none, {},
     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE},
    {"atomic on a region without remote atomics", IBV_WR_ATOMIC_FETCH_AND_ADD,
     IBV_WC_REM_ACCESS_ERR,
     [](auto&, auto& sge) { sge.length = 8; }, Mistake::Receive::none, {},
     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ},
    {"misaligned atomic", IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WC_REM_INV_REQ_ERR,
     [](auto& wr, auto& sge) {
         sge.length = 8;
         wr.wr.atomic.remote_addr += 4;
     },
     Mistake::Receive::none, {}, all_access, false, {}, true},
    {"SEND from an unknown L_Key", IBV_WR_SEND, IBV_WC_LOC_PROT_ERR,
     [](auto&, auto& sge) { sge.lkey ^= 0x5500; }, Mistake::Receive::good, {}, all_access,
     false, {}, true},
    {"SEND from beyond the region", IBV_WR_SEND, IBV_WC_LOC_PROT_ERR,
     [](auto&, auto& sge) { sge.addr += size; }, Mistake::Receive::good, {}, all_access,
     false, {}, true},
    {"SEND longer than the receive", IBV_WR_SEND, IBV_WC_REM_INV_REQ_ERR, [](auto&, auto&) {},
     Mistake::Receive::short_one, IBV_WC_LOC_LEN_ERR, all_access, false, {}, false, true},
    {"SEND to a receive with an unknown L_Key", IBV_WR_SEND, IBV_WC_REM_OP_ERR,
     [](auto&, auto&) {}, Mistake::Receive::bad_key, IBV_WC_LOC_PROT_ERR, all_access, false, {},
     false, true},
    {"SEND without a receive", IBV_WR_SEND, IBV_WC_RNR_RETRY_EXC_ERR, [](auto&, auto&) {},
     Mistake::Receive::none, {}, all_access, false, {.rnr_retry = 1}},
    {"SEND to a QP that is gone", IBV_WR_SEND, IBV_WC_RETRY_EXC_ERR, [](auto&, auto&) {},
     Mistake::Receive::none, {}, all_access, true, {.timeout = 12, .retry_cnt = 1}},
};

class Errors {
public:
    explicit Errors(Peer& peer) : _peer(peer), _cq(peer.device.create_cq(64)) {}

    void run(const Mistake& mistake)
    {
        int access = _peer.is_client ? all_access : mistake.server_access;
        Buffer buffer(_peer.device, size, access);
        OwnedQp qp = _peer.device.create_qp(IBV_QPT_RC, _cq.get(), _cq.get(),
                                            {depth, depth, 1, 1, 0});
        QpAddress ours = address_of(_peer.device, *qp);
        QpAddress theirs = _peer.control.exchange(ours);
        connect(_peer.device, qp.get(), ours, theirs, mistake.qp);
        struct Target {
            uint64_t address;
            uint32_t rkey;
        };
        Target target = _peer.control.exchange(Target{buffer.address(), buffer.rkey()});

        if (_peer.is_client) {
            request(mistake, buffer, qp.get(), target.address, target.rkey);
        } else {
            answer(mistake, buffer, qp);
        }
        if (!mistake.server_qp_gone) {
            use_again(buffer, qp.get(), ours, theirs);
        }
        expect_empty(_cq.get());
        _peer.control.barrier();
    }

private:
    // The bad request, and two behind it that must be flushed.
    void request(const Mistake& mistake, const Buffer& buffer, ibv_qp* qp, uint64_t address,
                 uint32_t rkey)
    {
        fill(buffer.bytes(), 1);
        _peer.control.barrier();
        ibv_sge sge = buffer.sge(0, 10000);
        ibv_send_wr wr{};
        wr.opcode = mistake.opcode;
        wr.send_flags = IBV_SEND_SIGNALED;
        wr.sg_list = &sge;
        wr.num_sge = 1;
        if (wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
            wr.wr.atomic = {address, 1, 0, rkey};
        } else {
            wr.wr.rdma = {address, rkey};
        }
        mistake.spoil(wr, sge);
        for (wr.wr_id = 1; wr.wr_id <= 3; ++wr.wr_id) {
            post_send(qp, wr);
        }
        expect_completion(_cq.get(), 1, mistake.status);
        expect_completion(_cq.get(), 2, IBV_WC_WR_FLUSH_ERR);
        expect_completion(_cq.get(), 3, IBV_WC_WR_FLUSH_ERR);
        expect(state_of(qp) == IBV_QPS_ERR, "the QP is in state {}",
               static_cast<int>(state_of(qp)));
        // What is posted now is flushed as well.
        wr.wr_id = 4;
        post_send(qp, wr);
        expect_completion(_cq.get(), 4, IBV_WC_WR_FLUSH_ERR);
        _peer.control.barrier();
    }

    void answer(const Mistake& mistake, const Buffer& buffer, OwnedQp& qp)
    {
        poison(buffer.bytes());
        ibv_sge sge = buffer.sge(0, size);
        switch (mistake.receive) {
        case Mistake::Receive::none:
            break;
        case Mistake::Receive::short_one:
            sge.length = 9999;
            post_recv(qp.get(), 10, {&sge, 1});
            break;
        case Mistake::Receive::bad_key:
            sge.lkey ^= 0x5500;
            [[fallthrough]];
        case Mistake::Receive::good:
            post_recv(qp.get(), 10, {&sge, 1});
        }
        if (mistake.server_qp_gone) {
            qp.reset();
        }
        _peer.control.barrier();
        if (mistake.receive_status) {
            expect_completion(_cq.get(), 10, *mistake.receive_status);
        }
        _peer.control.barrier();
        if (mistake.opcode != IBV_WR_SEND) {
            check_untouched(buffer.bytes(), mistake.name);
        }
        // Where the mistake was the client's own, the receive is still there.
        bool waiting = mistake.receive != Mistake::Receive::none && !mistake.receive_status;
        if (!qp) {
            return;
        }
        to_state(qp.get(), IBV_QPS_ERR);
        if (waiting) {
            expect_completion(_cq.get(), 10, IBV_WC_WR_FLUSH_ERR);
        }
        // (rxe's user library does not tell its kernel module of a receive.)
        if (!is_rxe(_peer.device)) {
            post_recv(qp.get(), 11, {&sge, 1});
            expect_completion(_cq.get(), 11, IBV_WC_WR_FLUSH_ERR);
        }
    }

    // The same QP, through RESET, works again.
    void use_again(const Buffer& buffer, ibv_qp* qp, const QpAddress& ours, const QpAddress& theirs)
    {
        to_state(qp, IBV_QPS_RESET);
        _peer.control.barrier();
        connect(_peer.device, qp, ours, theirs);
        ibv_sge sge = buffer.sge(0, 5000);
        if (_peer.is_client) {
            fill(buffer.bytes(), 2);
            _peer.control.barrier();
            ibv_send_wr wr{};
            wr.wr_id = 20;
            wr.opcode = IBV_WR_SEND;
            wr.send_flags = IBV_SEND_SIGNALED;
            wr.sg_list = &sge;
            wr.num_sge = 1;
            post_send(qp, wr);
        } else {
            post_recv(qp, 20, {&sge, 1});
            _peer.control.barrier();
        }
        expect_completion(_cq.get(), 20);
        if (!_peer.is_client) {
            check(buffer.bytes().first(5000), 2, 0, "SEND after an error");
        }
    }

    static ibv_qp_state state_of(ibv_qp* qp)
    {
        ibv_qp_attr attr{};
        ibv_qp_init_attr init{};
        expect(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init) == 0, "ibv_query_qp failed");
        return attr.qp_state;
    }

    Peer& _peer;
    OwnedCq _cq;
};

} // namespace

void verify_errors(Peer& peer)
{
    Errors errors(peer);
    bool peer_is_rxe = peer.control.exchange(is_rxe(peer.device));
    bool server_is_rxe = peer.is_client ? peer_is_rxe : is_rxe(peer.device);
    bool client_is_rxe = peer.is_client ? is_rxe(peer.device) : peer_is_rxe;
    for (const Mistake& mistake : mistakes) {
        if ((client_is_rxe && mistake.rxe_client_deviates) ||
            (server_is_rxe && mistake.rxe_server_deviates)) {
            continue;
        }
        try {
            errors.run(mistake);
            fmt::print("errors: {}\n", mistake.name);
            std::fflush(stdout);
        } catch (const std::exception& e) {
            throw Failure(fmt::format("{}: {}", mistake.name, e.what()));
        }
    }
}

} // namespace verify
