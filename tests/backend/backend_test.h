// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the tests of the common suite share: a pair of backends of the kind under
// test, and connections between its ends.
#pragma once

#include "../qp_masks.h"
#include "../requests.h"
#include "backend_end.h"

namespace rdma::test {

struct Connection {
    uint8_t timeout = 14; // 67 ms
    uint8_t retry_cnt = 7;
    uint8_t rnr_retry = 7;
    uint8_t min_rnr_timer = 1; // 10 us
    uint8_t rd_atomic = 4;
    ibv_mtu mtu = IBV_MTU_1024;
    unsigned access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
    uint32_t qkey = 0x11111111;
};

inline constexpr uint32_t psn_a = 0x111111;
inline constexpr uint32_t psn_b = 0x222222;

inline int modify(BackendEnd& end, uint32_t qp, const ibv_qp_attr& attr, int mask,
                  const Mac& dmac = {})
{
    return end.modify(qp, attr, mask, dmac);
}

// Reset to init.
inline int to_init(BackendEnd& end, uint32_t qp, ibv_qp_type type, const Connection& c = {})
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qp_access_flags = c.access;
    attr.qkey = c.qkey;
    return modify(end, qp, attr,
                  IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                      (type == IBV_QPT_UD ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS));
}

// Init to ready to receive.
inline int to_rtr(BackendEnd& end, uint32_t qp, ibv_qp_type type, const BackendEnd& peer,
                  uint32_t peer_qpn, uint32_t peer_psn, const Connection& c = {})
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = c.mtu;
    attr.dest_qp_num = peer_qpn;
    attr.rq_psn = peer_psn;
    attr.max_dest_rd_atomic = c.rd_atomic;
    attr.min_rnr_timer = c.min_rnr_timer;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.grh.dgid = peer.gid;
    attr.ah_attr.grh.hop_limit = 64;
    attr.ah_attr.port_num = 1;
    return modify(end, qp, attr, rtr_mask(type), peer.mac);
}

// Ready to receive to ready to send.
inline int to_rts(BackendEnd& end, uint32_t qp, ibv_qp_type type, uint32_t psn,
                  const Connection& c = {})
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTS;
    attr.timeout = c.timeout;
    attr.retry_cnt = c.retry_cnt;
    attr.rnr_retry = c.rnr_retry;
    attr.sq_psn = psn;
    attr.max_rd_atomic = c.rd_atomic;
    return modify(end, qp, attr, rts_mask(type));
}

inline int to_state(BackendEnd& end, uint32_t qp, ibv_qp_state state)
{
    ibv_qp_attr attr{};
    attr.qp_state = state;
    return modify(end, qp, attr, IBV_QP_STATE);
}

inline ibv_qp_state state_of(BackendEnd& end, uint32_t qp)
{
    ibv_qp_attr attr{};
    Mac mac;
    EXPECT_EQ(end.backend->query_qp(qp, attr, mac), 0);
    return attr.qp_state;
}

// A datagram to an end.
inline SendRequest datagram(const BackendEnd& to, uint32_t qpn, uint32_t qkey, uint64_t address,
                            uint32_t length, uint32_t lkey)
{
    SendRequest request = send_request(IBV_WR_SEND, 1, address, length, lkey);
    request.wr.wr.ud.remote_qpn = qpn;
    request.wr.wr.ud.remote_qkey = qkey;
    request.av.attr.is_global = 1;
    request.av.attr.port_num = 1;
    request.av.attr.grh.dgid = to.gid;
    request.av.attr.grh.hop_limit = 64;
    request.av.dmac = to.mac;
    return request;
}

// Names the kind in a test's name.
inline std::string name_of(const testing::TestParamInfo<BackendKind>& info)
{
    return info.param.name;
}

class BackendTest : public testing::TestWithParam<BackendKind> {
protected:
    BackendTest() : pair(GetParam().make()), a(pair->a), b(pair->b) {}

    // Where the tests' messages lie, at both ends.
    static constexpr uint64_t source = ram_base + 0x10000;
    static constexpr uint64_t target = ram_base + 0x100000;

    bool is_roce() const { return GetParam().name == "roce"; }

    // A status that the specification asks for, and that the engine gives; a host's
    // device may give the other one (which, the tests say).
    void expect_status(const Completion& completion, ibv_wc_status asked, ibv_wc_status other)
    {
        EXPECT_TRUE(completion.wc.status == asked || (!is_roce() && completion.wc.status == other))
            << ibv_wc_status_str(completion.wc.status);
    }

    QpNumbers create(BackendEnd& end, ibv_qp_type type, uint32_t depth = 64)
    {
        return end.backend->create_qp(end.qp_init(type, depth)).value();
    }
    void connect_end(BackendEnd& end, QpNumbers qp, ibv_qp_type type, BackendEnd& peer,
                     QpNumbers peer_qp, const Connection& c)
    {
        ASSERT_EQ(to_init(end, qp.id, type, c), 0);
        ASSERT_EQ(to_rtr(end, qp.id, type, peer, peer_qp.qpn, &end == &a ? psn_b : psn_a, c), 0);
        ASSERT_EQ(to_rts(end, qp.id, type, &end == &a ? psn_a : psn_b, c), 0);
    }
    void connect(QpNumbers at_a, QpNumbers at_b, ibv_qp_type type = IBV_QPT_RC,
                 const Connection& c = {})
    {
        connect_end(a, at_a, type, b, at_b, c);
        connect_end(b, at_b, type, a, at_a, c);
    }
    // One QP at each end, connected.
    void connect_pair(ibv_qp_type type = IBV_QPT_RC, const Connection& c = {}, uint32_t depth = 64)
    {
        qa = create(a, type, depth);
        qb = create(b, type, depth);
        connect(qa, qb, type, c);
    }

    bool wait(BackendEnd& end, size_t completions)
    {
        bool done = pair->run_until([&] { return end.completions.size() >= completions; });
        EXPECT_TRUE(done) << "only " << end.completions.size() << " completions";
        return done;
    }
    // The next so many completions; fewer where no more come.
    std::vector<Completion> next(BackendEnd& end, size_t count = 1)
    {
        wait(end, count);
        size_t n = std::min(count, end.completions.size());
        auto last = end.completions.begin() + static_cast<std::ptrdiff_t>(n);
        std::vector<Completion> taken(end.completions.begin(), last);
        end.completions.erase(end.completions.begin(), last);
        taken.resize(count, failed());
        return taken;
    }

    std::unique_ptr<BackendPair> pair;
    BackendEnd& a;
    BackendEnd& b;
    QpNumbers qa{};
    QpNumbers qb{};

private:
    // Stands for one that has not come.
    static Completion failed()
    {
        Completion completion;
        completion.wc.status = IBV_WC_GENERAL_ERR;
        return completion;
    }
};

} // namespace rdma::test
