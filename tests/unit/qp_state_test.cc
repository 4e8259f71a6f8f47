// SPDX-License-Identifier: GPL-2.0-or-later
//
// States and attributes of queue pairs: IBTA vol. 1, 10.3.1 and tables 91 and 92
// of 11.2.5.2, as the tables here repeat them.
#include <algorithm>
#include <cerrno>
#include <map>

#include "engine_harness.h"

namespace rdma::test {
namespace {

using State = ibv_qp_state;
constexpr State states[] = {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS,
                            IBV_QPS_SQD,   IBV_QPS_SQE,  IBV_QPS_ERR};
// Attributes, each a bit of ibv_qp_attr_mask, but for the states.
constexpr int attributes[] = {
    IBV_QP_EN_SQD_ASYNC_NOTIFY, IBV_QP_ACCESS_FLAGS,       IBV_QP_PKEY_INDEX,
    IBV_QP_PORT,                IBV_QP_QKEY,               IBV_QP_AV,
    IBV_QP_PATH_MTU,            IBV_QP_TIMEOUT,            IBV_QP_RETRY_CNT,
    IBV_QP_RNR_RETRY,           IBV_QP_RQ_PSN,             IBV_QP_MAX_QP_RD_ATOMIC,
    IBV_QP_ALT_PATH,            IBV_QP_MIN_RNR_TIMER,      IBV_QP_SQ_PSN,
    IBV_QP_MAX_DEST_RD_ATOMIC,  IBV_QP_PATH_MIG_STATE,     IBV_QP_CAP,
    IBV_QP_DEST_QPN};

struct Rule {
    int required;
    int optional;
};
using Rules = std::map<std::pair<State, State>, Rule>;

const Rules rc_rules = {
    {{IBV_QPS_RESET, IBV_QPS_INIT}, {IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0}},
    {{IBV_QPS_INIT, IBV_QPS_INIT}, {0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS}},
    {{IBV_QPS_INIT, IBV_QPS_RTR},
     {IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
          IBV_QP_MIN_RNR_TIMER,
      IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX}},
    {{IBV_QPS_RTR, IBV_QPS_RTS},
     {IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
          IBV_QP_MAX_QP_RD_ATOMIC,
      IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE}},
    {{IBV_QPS_RTS, IBV_QPS_RTS},
     {0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE}},
    {{IBV_QPS_RTS, IBV_QPS_SQD}, {0, IBV_QP_EN_SQD_ASYNC_NOTIFY}},
    {{IBV_QPS_SQD, IBV_QPS_RTS},
     {0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE}},
    {{IBV_QPS_SQD, IBV_QPS_SQD},
     {0, IBV_QP_PORT | IBV_QP_AV | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
             IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_ACCESS_FLAGS |
             IBV_QP_PKEY_INDEX | IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE}},
};
const Rules ud_rules = {
    {{IBV_QPS_RESET, IBV_QPS_INIT}, {IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY, 0}},
    {{IBV_QPS_INIT, IBV_QPS_INIT}, {0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY}},
    {{IBV_QPS_INIT, IBV_QPS_RTR}, {0, IBV_QP_PKEY_INDEX | IBV_QP_QKEY}},
    {{IBV_QPS_RTR, IBV_QPS_RTS}, {IBV_QP_SQ_PSN, IBV_QP_QKEY}},
    {{IBV_QPS_RTS, IBV_QPS_RTS}, {0, IBV_QP_QKEY}},
    {{IBV_QPS_RTS, IBV_QPS_SQD}, {0, IBV_QP_EN_SQD_ASYNC_NOTIFY}},
    {{IBV_QPS_SQD, IBV_QPS_RTS}, {0, IBV_QP_QKEY}},
    {{IBV_QPS_SQD, IBV_QPS_SQD}, {0, IBV_QP_PKEY_INDEX | IBV_QP_QKEY}},
    {{IBV_QPS_SQE, IBV_QPS_RTS}, {0, IBV_QP_QKEY}},
};

// Values that are right for every attribute.
ibv_qp_attr good_attributes(const Node& node)
{
    ibv_qp_attr attr{};
    attr.port_num = 1;
    attr.path_mtu = IBV_MTU_1024;
    attr.dest_qp_num = 5;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.port_num = 1;
    attr.ah_attr.grh.dgid = node.gid;
    attr.max_dest_rd_atomic = attr.max_rd_atomic = 1;
    attr.timeout = 14;
    return attr;
}

struct Machine {
    const char* name;
    ibv_qp_type type;
    const Rules& rules;
};

struct QpState : testing::TestWithParam<Machine> {
    Node a{1};
    QpNumbers qp{};

    int modify(State to, int mask)
    {
        ibv_qp_attr attr = good_attributes(a);
        attr.qp_state = to;
        return a.engine.modify_qp(qp.id, attr, mask | IBV_QP_STATE, a.mac());
    }
    State state()
    {
        ibv_qp_attr attr{};
        Mac dmac;
        EXPECT_EQ(a.engine.query_qp(qp.id, attr, dmac), 0);
        EXPECT_EQ(attr.cur_qp_state, attr.qp_state);
        return attr.qp_state;
    }
    int required(State from, State to) { return GetParam().rules.at({from, to}).required; }
    // A new QP in that state.
    void bring_to(State wanted)
    {
        qp = a.create_qp(GetParam().type);
        if (wanted == IBV_QPS_ERR) {
            ASSERT_EQ(modify(IBV_QPS_ERR, 0), 0);
            return;
        }
        static constexpr State way[] = {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS};
        for (size_t i = 0; state() != wanted && i + 1 < std::size(way); ++i) {
            ASSERT_EQ(modify(way[i + 1], required(way[i], way[i + 1])), 0);
        }
        if (wanted == IBV_QPS_SQD) {
            ASSERT_EQ(modify(IBV_QPS_SQD, 0), 0);
        } else if (wanted == IBV_QPS_SQE) {
            a.send_queues[qp.id].emplace_back().malformed = IBV_WC_LOC_QP_OP_ERR;
            a.engine.send_doorbell(qp.id);
            a.engine.run(0, 10);
            a.take_completions();
        }
        ASSERT_EQ(state(), wanted);
    }
    bool has_state(State wanted)
    {
        return wanted != IBV_QPS_SQE || GetParam().type == IBV_QPT_UD;
    }
};

// [virtio-rdma REQ-3]
TEST_P(QpState, changes_only_as_the_standard_says)
{
    for (State from : states) {
        for (State to : states) {
            if (!has_state(from)) {
                continue;
            }
            SCOPED_TRACE(testing::Message() << from << " to " << to);
            bring_to(from);
            auto rule = GetParam().rules.find({from, to});
            bool always = to == IBV_QPS_RESET || to == IBV_QPS_ERR;
            bool legal = always || rule != GetParam().rules.end();
            EXPECT_EQ(modify(to, legal && !always ? rule->second.required : 0),
                      legal ? 0 : EINVAL);
            EXPECT_EQ(state(), legal ? to : from);
        }
    }
}

// [virtio-rdma REQ-3]
TEST_P(QpState, needs_each_required_attribute_and_takes_no_other)
{
    for (const auto& [change, rule] : GetParam().rules) {
        auto [from, to] = change;
        for (int attribute : attributes) {
            SCOPED_TRACE(testing::Message() << from << " to " << to << ", attribute " << attribute);
            bring_to(from);
            if (rule.required & attribute) {
                EXPECT_EQ(modify(to, rule.required & ~attribute), EINVAL);
            } else {
                bool allowed = rule.optional & attribute;
                EXPECT_EQ(modify(to, rule.required | attribute), allowed ? 0 : EINVAL);
            }
        }
    }
}

TEST_P(QpState, a_wrong_idea_of_the_current_state_is_refused)
{
    bring_to(IBV_QPS_RTS);
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTS;
    attr.cur_qp_state = IBV_QPS_SQD;
    int mask = IBV_QP_STATE | IBV_QP_CUR_STATE;
    EXPECT_EQ(a.engine.modify_qp(qp.id, attr, mask, {}), EINVAL);
    attr.cur_qp_state = IBV_QPS_RTS;
    EXPECT_EQ(a.engine.modify_qp(qp.id, attr, mask, {}), 0);
}

INSTANTIATE_TEST_SUITE_P(Types, QpState,
                         testing::Values(Machine{"RC", IBV_QPT_RC, rc_rules},
                                         Machine{"UD", IBV_QPT_UD, ud_rules}),
                         [](const auto& machine) { return machine.param.name; });

struct QpAttributes : testing::Test {
    Node a{1};
    QpNumbers qp = a.create_qp(IBV_QPT_RC);

    int modify(const ibv_qp_attr& attr, int mask)
    {
        return a.engine.modify_qp(qp.id, attr, mask, {2, 0, 0, 0, 0, 9});
    }
    ibv_qp_attr query()
    {
        ibv_qp_attr attr{};
        EXPECT_EQ(a.engine.query_qp(qp.id, attr, dmac), 0);
        return attr;
    }
    void bring_to_init()
    {
        ibv_qp_attr attr = good_attributes(a);
        attr.qp_state = IBV_QPS_INIT;
        ASSERT_EQ(modify(attr, IBV_QP_STATE | rc_rules.at({IBV_QPS_RESET, IBV_QPS_INIT}).required),
                  0);
    }
    Mac dmac{};
};

constexpr int to_rtr = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                       IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
constexpr int to_rts = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;

TEST_F(QpAttributes, are_read_back_as_they_were_set)
{
    ibv_qp_attr set{};
    set.qp_state = IBV_QPS_INIT;
    set.port_num = 1;
    set.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
    ASSERT_EQ(modify(set, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS), 0);
    set.qp_state = IBV_QPS_RTR;
    set.path_mtu = IBV_MTU_2048;
    set.dest_qp_num = 0x123456;
    set.rq_psn = 0xabcdef;
    set.max_dest_rd_atomic = 7;
    set.min_rnr_timer = 19;
    set.ah_attr.is_global = 1;
    set.ah_attr.port_num = 1;
    set.ah_attr.sl = 3;
    set.ah_attr.static_rate = 2;
    set.ah_attr.src_path_bits = 1;
    set.ah_attr.grh = {{}, 0x54321, 0, 33, 0x5a};
    set.ah_attr.grh.dgid.raw[15] = 77;
    ASSERT_EQ(modify(set, to_rtr), 0);
    set.qp_state = IBV_QPS_RTS;
    set.timeout = 21;
    set.retry_cnt = 5;
    set.rnr_retry = 6;
    set.sq_psn = 0x13579b;
    set.max_rd_atomic = 9;
    ASSERT_EQ(modify(set, to_rts), 0);

    ibv_qp_attr got = query();
    EXPECT_EQ(got.qp_state, IBV_QPS_RTS);
    EXPECT_EQ(got.port_num, 1);
    EXPECT_EQ(got.pkey_index, 0);
    EXPECT_EQ(got.qp_access_flags, set.qp_access_flags);
    EXPECT_EQ(got.path_mtu, IBV_MTU_2048);
    EXPECT_EQ(got.dest_qp_num, 0x123456u);
    EXPECT_EQ(got.rq_psn, 0xabcdefu);
    EXPECT_EQ(got.max_dest_rd_atomic, 7);
    EXPECT_EQ(got.min_rnr_timer, 19);
    EXPECT_EQ(std::memcmp(&got.ah_attr, &set.ah_attr, sizeof(set.ah_attr)), 0);
    EXPECT_EQ(dmac, (Mac{2, 0, 0, 0, 0, 9}));
    EXPECT_EQ(got.timeout, 21);
    EXPECT_EQ(got.retry_cnt, 5);
    EXPECT_EQ(got.rnr_retry, 6);
    EXPECT_EQ(got.sq_psn, 0x13579bu);
    EXPECT_EQ(got.max_rd_atomic, 9);
    EXPECT_EQ(got.path_mig_state, IBV_MIG_MIGRATED);
    EXPECT_EQ(got.cap.max_send_wr, 128u);
    EXPECT_EQ(got.cap.max_recv_sge, 16u);
    EXPECT_EQ(got.cap.max_inline_data, 0u);
}

TEST_F(QpAttributes, reset_forgets_all_but_the_capacities)
{
    bring_to_init();
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RESET;
    ASSERT_EQ(modify(attr, IBV_QP_STATE), 0);
    EXPECT_EQ(query().qp_access_flags, 0u);
    EXPECT_EQ(query().cap.max_send_wr, 128u);
}

TEST_F(QpAttributes, out_of_range_are_refused_and_nothing_changes)
{
    struct Bad {
        const char* what;
        void (*change)(ibv_qp_attr&);
    };
    const Bad bad[] = {
        {"no such GID", [](ibv_qp_attr& v) { v.ah_attr.grh.sgid_index = 1; }},
        {"GID index", [](ibv_qp_attr& v) { v.ah_attr.grh.sgid_index = 255; }},
        {"no GRH", [](ibv_qp_attr& v) { v.ah_attr.is_global = 0; }},
        {"path MTU", [](ibv_qp_attr& v) { v.path_mtu = static_cast<ibv_mtu>(0); }},
        {"path MTU", [](ibv_qp_attr& v) { v.path_mtu = static_cast<ibv_mtu>(6); }},
        {"responder resources", [](ibv_qp_attr& v) { v.max_dest_rd_atomic = 17; }},
        {"RNR timer", [](ibv_qp_attr& v) { v.min_rnr_timer = 32; }},
    };
    bring_to_init();
    for (const Bad& one : bad) {
        ibv_qp_attr attr = good_attributes(a);
        attr.qp_state = IBV_QPS_RTR;
        one.change(attr);
        EXPECT_EQ(modify(attr, to_rtr), EINVAL) << one.what;
        EXPECT_EQ(query().qp_state, IBV_QPS_INIT) << one.what;
        EXPECT_EQ(query().dest_qp_num, 0u) << one.what;
    }
    ibv_qp_attr attr = good_attributes(a);
    attr.qp_state = IBV_QPS_RTR;
    ASSERT_EQ(modify(attr, to_rtr), 0);
    const Bad bad_senders[] = {
        {"timeout", [](ibv_qp_attr& v) { v.timeout = 32; }},
        {"retry count", [](ibv_qp_attr& v) { v.retry_cnt = 8; }},
        {"RNR retry", [](ibv_qp_attr& v) { v.rnr_retry = 8; }},
        {"initiator depth", [](ibv_qp_attr& v) { v.max_rd_atomic = 17; }},
    };
    for (const Bad& one : bad_senders) {
        attr = good_attributes(a);
        attr.qp_state = IBV_QPS_RTS;
        one.change(attr);
        EXPECT_EQ(modify(attr, to_rts), EINVAL) << one.what;
        EXPECT_EQ(query().qp_state, IBV_QPS_RTR) << one.what;
    }
}

TEST_F(QpAttributes, the_path_mtu_fits_the_nic)
{
    bring_to_init();
    ibv_qp_attr attr = good_attributes(a);
    attr.qp_state = IBV_QPS_RTR;
    a.port_mtu = 1500;
    attr.path_mtu = IBV_MTU_2048;
    EXPECT_EQ(modify(attr, to_rtr), EINVAL);
    a.port_mtu = 9000;
    attr.path_mtu = IBV_MTU_4096;
    EXPECT_EQ(modify(attr, to_rtr), 0);
}

// Automatic path migration is not offered, and so not taken.
TEST_F(QpAttributes, alternate_paths_are_refused)
{
    bring_to_init();
    ibv_qp_attr attr = good_attributes(a);
    attr.qp_state = IBV_QPS_RTR;
    attr.alt_ah_attr = attr.ah_attr;
    EXPECT_EQ(modify(attr, to_rtr | IBV_QP_ALT_PATH), EINVAL);
    ASSERT_EQ(modify(attr, to_rtr), 0);
    attr.qp_state = IBV_QPS_RTS;
    attr.path_mig_state = IBV_MIG_REARM;
    EXPECT_EQ(modify(attr, to_rts | IBV_QP_PATH_MIG_STATE), EINVAL);
}

TEST(ObjectOrder, what_others_use_cannot_be_destroyed)
{
    Node a{1};
    uint32_t srq = a.engine.create_srq(a.pd, {16, 1, 0}).value();
    MrKeys mr = a.register_ram();
    QpInit init = a.qp_init(IBV_QPT_RC);
    init.use_srq = true;
    init.srq = srq;
    QpNumbers qp = a.engine.create_qp(init).value();
    EXPECT_EQ(a.engine.destroy_cq(a.cq), EBUSY);
    EXPECT_EQ(a.engine.destroy_srq(srq), EBUSY);
    EXPECT_EQ(a.engine.dealloc_pd(a.pd), EBUSY);
    EXPECT_EQ(a.engine.destroy_qp(qp.id), 0);
    EXPECT_EQ(a.engine.destroy_qp(qp.id), ENOENT);
    EXPECT_EQ(a.engine.destroy_cq(a.cq), 0);
    EXPECT_EQ(a.engine.dealloc_pd(a.pd), EBUSY) << "SRQ and MR";
    EXPECT_EQ(a.engine.destroy_srq(srq), 0);
    EXPECT_EQ(a.engine.dealloc_pd(a.pd), EBUSY) << "MR";
    EXPECT_EQ(a.engine.dereg_mr(mr.id), 0);
    EXPECT_EQ(a.engine.dealloc_pd(a.pd), 0);
    EXPECT_EQ(a.engine.create_qp(a.qp_init(IBV_QPT_RC)).error(), ENOENT);
}

} // namespace
} // namespace rdma::test
