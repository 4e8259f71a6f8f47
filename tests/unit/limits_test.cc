// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the device advertises exists, all at once, and every queue pair of it
// moves data; the next object is refused, memory is in proportion to what
// exists and comes back.
#include "counted_heap.h"
#include "pvrdma_device.h"
#include "whole_device.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <map>
#include <random>

namespace rdma::test {
namespace {

constexpr uint8_t number = 1;
// QPs 0 and 1 are the SMI's and the GSI's.
constexpr uint32_t special_qps = 2;

// All objects of one device. Rings and regions of a kind lie in the same guest
// memory: the device keeps no ring position of its own, so that a guest that
// uses one queue after the other may do that.
class Limits : public testing::Test {
protected:
    void SetUp() override
    {
        device.bring_up();
        pages = device.qp_pages(shape);
        cq_pages = device.queue_pages(WholeDevice::cq_pages(cq_slots));
        srq_pages = device.queue_pages(1);
        buffer = device.ram.pages(1);
        buffer_directory = device.ram.directory(buffer, 1);
    }

    Result<uint32_t> make_cq()
    {
        return handle_of(device.create_cq(cq_slots, cq_pages));
    }
    Result<uint32_t> make_srq() { return device.create_srq(pd, 64, srq_pages); }
    Result<uint32_t> make_mr()
    {
        return handle_of(device.register_memory(pd, buffer, page_size, buffer_directory));
    }
    Result<uint32_t> make_qp()
    {
        auto qp = device.create_qp(shape, pd, cq.handle, pages);
        if (qp) {
            qps[qp->handle] = *qp;
        }
        return handle_of(qp);
    }
    template <typename Object>
    static Result<uint32_t> handle_of(const Result<Object>& object)
    {
        if (!object) {
            return std::unexpected(object.error());
        }
        return object->handle;
    }
    // ENOMEM and nothing else.
    template <typename Make>
    static void expect_full(Make&& make)
    {
        Result<uint32_t> handle = make();
        EXPECT_EQ(handle ? 0 : handle.error(), ENOMEM);
    }

    // Creates objects until there are count of them, then one too many; returns
    // the heap bytes of each.
    template <typename Make>
    size_t fill(std::vector<uint32_t>& handles, size_t count, Make&& make)
    {
        handles.reserve(count);
        size_t before = heap;
        while (handles.size() < count) {
            auto handle = make();
            if (!handle) {
                ADD_FAILURE() << handles.size() << " of " << count << ": " << handle.error();
                return 0;
            }
            handles.push_back(*handle);
        }
        size_t each = (heap - before) / count;
        expect_full(make);
        return each;
    }

    // One is destroyed, in the middle of the others; there is room for one again.
    template <typename Make>
    void replace_one(std::vector<uint32_t>& handles, Command destroy, Make&& make)
    {
        uint32_t& victim = handles[handles.size() / 2];
        EXPECT_EQ(device.destroy(destroy, victim), 0);
        auto handle = make();
        ASSERT_TRUE(handle.has_value()) << handle.error();
        victim = *handle;
        expect_full(make);
    }

    void destroy_all(std::vector<uint32_t>& handles, Command destroy)
    {
        for (uint32_t handle : handles) {
            ASSERT_EQ(device.destroy(destroy, handle), 0) << handle;
        }
        handles.clear();
    }

    // A SEND of one QP to another, whose queues lie in the same memory.
    void expect_message(const DeviceQp& from, const DeviceQp& to)
    {
        device.ram.at<std::array<RingState, 2>>(pages.state) = {};
        uint64_t source = buffer + 64;
        device.ram.at<uint64_t>(source) = from.handle * 0x9e3779b97f4a7c15;
        device.ram.at<uint64_t>(buffer) = 0;
        device.post_recv(to, to.handle, buffer, 8, key);
        device.post_send(from, wr_send, from.handle, source, 8, key);
        device.ring_send(from);
        uint32_t completed = 0;
        while (const Cqe* cqe = device.poll(cq)) {
            ASSERT_EQ(cqe->status, 0u);
            ASSERT_EQ(cqe->wr_id, cqe->qp);
            ASSERT_EQ(cqe->qp, cqe->opcode == wc_recv ? to.handle : from.handle);
            ++completed;
        }
        ASSERT_EQ(completed, 2u);
        ASSERT_EQ(device.ram.at<uint64_t>(buffer), device.ram.at<uint64_t>(source));
    }

    void connect_in_pairs(const std::vector<uint32_t>& handles)
    {
        for (size_t i = 0; i < handles.size(); ++i) {
            device.connect(qps[handles[i]], number, qps[handles[i ^ 1]].qpn);
        }
    }
    void send_both_ways(const std::vector<uint32_t>& handles)
    {
        for (size_t i = 0; i < handles.size(); ++i) {
            ASSERT_NO_FATAL_FAILURE(expect_message(qps[handles[i]], qps[handles[i ^ 1]]))
                << "QP " << handles[i];
        }
    }

    static constexpr uint32_t cq_slots = 64;
    const QueueShape shape{};
    WholeDevice device{number};
    QueuePages pages{};
    QueuePages cq_pages{};
    QueuePages srq_pages{};
    uint64_t buffer = 0;
    uint64_t buffer_directory = 0;
    uint32_t pd = 0;
    DeviceCq cq{};
    uint32_t key = 0;
    std::map<uint32_t, DeviceQp> qps; // by handle
};

TEST_F(Limits, ADeviceAtRestTakesNothingForWhatItAdvertises)
{
    size_t before = heap;
    WholeDevice another(2);
    another.bring_up();
    EXPECT_LT(heap - before, 64u << 10);
}

TEST_F(Limits, AllThatIsAdvertisedExistsAtOnceAndWorks)
{
    const DeviceCaps& caps = device.caps;
    std::vector<uint32_t> pds, cqs, srqs, mrs, qp_handles;

    size_t pd_bytes = fill(pds, caps.max_pd, [this] { return device.create_pd(); });
    pd = pds[0];
    size_t cq_bytes = fill(cqs, caps.max_cq, [this] { return make_cq(); });
    cq = {cqs[0], cq_pages, cq_slots};
    size_t srq_bytes = fill(srqs, caps.max_srq, [this] { return make_srq(); });
    size_t mr_bytes = fill(mrs, caps.max_mr, [this] { return make_mr(); });
    qp_handles.reserve(caps.max_qp);
    for (uint32_t i = 0; i < caps.max_qp; ++i) {
        qps[i]; // so that the map's nodes are not counted
    }
    size_t qp_bytes = fill(qp_handles, caps.max_qp - special_qps, [this] { return make_qp(); });
    RecordProperty("bytes_per_pd", std::to_string(pd_bytes));
    RecordProperty("bytes_per_cq", std::to_string(cq_bytes));
    RecordProperty("bytes_per_srq", std::to_string(srq_bytes));
    RecordProperty("bytes_per_mr", std::to_string(mr_bytes));
    RecordProperty("bytes_per_qp", std::to_string(qp_bytes));
    EXPECT_LE(pd_bytes, 64u);
    EXPECT_LE(cq_bytes, 160u);
    EXPECT_LE(srq_bytes, 160u);
    EXPECT_LE(mr_bytes, 192u);
    EXPECT_LE(qp_bytes, 2048u);

    // No object more, but one in another's place.
    replace_one(pds, cmd_destroy_pd, [this] { return device.create_pd(); });
    replace_one(cqs, cmd_destroy_cq, [this] { return make_cq(); });
    replace_one(srqs, cmd_destroy_srq, [this] { return make_srq(); });
    replace_one(mrs, cmd_destroy_mr, [this] { return make_mr(); });
    replace_one(qp_handles, cmd_destroy_qp, [this] { return make_qp(); });

    // While they all exist, every QP sends and receives.
    EXPECT_EQ(device.destroy(cmd_destroy_mr, mrs.back()), 0);
    mrs.pop_back();
    auto mr = device.register_memory(pd, buffer, page_size, buffer_directory);
    ASSERT_TRUE(mr.has_value());
    mrs.push_back(mr->handle);
    key = mr->lkey;
    // Room for the READs and atomics of their peers is set aside as they are connected.
    size_t before = heap;
    connect_in_pairs(qp_handles);
    EXPECT_LE(heap - before, 1088 * qp_handles.size());
    before = heap;
    ASSERT_NO_FATAL_FAILURE(send_both_ways(qp_handles));
    EXPECT_EQ(device.events(), 0u);
    // What they have needed for that they have given back, but for their timers'
    // entries.
    EXPECT_LT(heap - before, 32 * qp_handles.size());

    // Without order, from the front, from the back.
    std::shuffle(qp_handles.begin(), qp_handles.end(), std::minstd_rand(1));
    destroy_all(qp_handles, cmd_destroy_qp);
    destroy_all(mrs, cmd_destroy_mr);
    destroy_all(srqs, cmd_destroy_srq);
    std::ranges::reverse(cqs);
    destroy_all(cqs, cmd_destroy_cq);
    destroy_all(pds, cmd_destroy_pd);

    // All of it again.
    fill(pds, caps.max_pd, [this] { return device.create_pd(); });
    fill(cqs, caps.max_cq, [this] { return make_cq(); });
    fill(srqs, caps.max_srq, [this] { return make_srq(); });
    fill(mrs, caps.max_mr, [this] { return make_mr(); });
    fill(qp_handles, caps.max_qp - special_qps, [this] { return make_qp(); });
}

TEST_F(Limits, WhatIsDestroyedGivesItsMemoryBack)
{
    pd = device.create_pd().value();
    cq = device.create_cq(cq_slots, cq_pages).value();
    size_t round[3];
    for (size_t& bytes : round) {
        std::vector<uint32_t> mrs(100'000);
        std::vector<uint32_t> qp_handles(10'000);
        std::ranges::generate(mrs, [this] { return make_mr().value(); });
        std::ranges::generate(qp_handles, [this] { return make_qp().value(); });
        auto mr = device.register_memory(pd, buffer, page_size, buffer_directory).value();
        key = mr.lkey;
        connect_in_pairs(qp_handles);
        ASSERT_NO_FATAL_FAILURE(send_both_ways(qp_handles));
        ASSERT_EQ(device.destroy(cmd_destroy_mr, mr.handle), 0);
        destroy_all(qp_handles, cmd_destroy_qp);
        destroy_all(mrs, cmd_destroy_mr);
        qps.clear(); // the test's own
        bytes = heap;
    }
    EXPECT_EQ(round[2], round[1]);
}

// A queue's entries are guest memory: a deep queue pair costs the device the addresses of their
// pages.
TEST_F(Limits, ADeepQueuePairTakesAnAddressForEachPageAndNothingElse)
{
    pd = device.create_pd().value();
    cq = device.create_cq(cq_slots, cq_pages).value();
    auto bytes_of = [&](const QueueShape& of) {
        QueuePages of_qp = device.qp_pages(of);
        auto warm = device.create_qp(of, pd, cq.handle, of_qp).value(); // the tables grow
        size_t before = heap;
        auto qp = device.create_qp(of, pd, cq.handle, of_qp);
        EXPECT_TRUE(qp.has_value());
        size_t bytes = heap - before;
        EXPECT_EQ(device.destroy(cmd_destroy_qp, warm.handle), 0);
        return bytes;
    };
    const QueueShape deepest{qpt_ud, device.caps.max_qp_wr, device.caps.max_qp_wr, 2};
    ASSERT_GE(deepest.send_wr, 16384u);
    size_t list = 8 * (deepest.send_pages() + deepest.recv_pages());
    EXPECT_LE(bytes_of(deepest), bytes_of({qpt_ud}) + list);
}

// However many queues lie in the same pages.
TEST_F(Limits, PagesOfAllQueuesHaveABound)
{
    pd = device.create_pd().value();
    cq = device.create_cq(cq_slots, cq_pages).value();
    const QueueShape deepest{qpt_rc, device.caps.max_qp_wr, device.caps.max_qp_wr,
                             device.caps.max_sge};
    pages = device.qp_pages(deepest);
    auto make = [&] { return handle_of(device.create_qp(deepest, pd, cq.handle, pages)); };
    size_t most = max_queue_pages / (deepest.send_pages() + deepest.recv_pages());
    ASSERT_LT(most, device.caps.max_qp);
    std::vector<uint32_t> handles;
    size_t before = heap;
    while (auto handle = make()) {
        handles.push_back(*handle);
        ASSERT_LE(handles.size(), most);
    }
    EXPECT_EQ(handles.size(), most - 1) << "the CQ has pages, too";
    EXPECT_LT(heap - before, max_queue_pages * 8 + handles.size() * 4096);
    replace_one(handles, cmd_destroy_qp, make);
    device.reset();
    device.bring_up();
    pd = device.create_pd().value();
    cq = device.create_cq(cq_slots, cq_pages).value();
    EXPECT_TRUE(make().has_value()) << "a reset gives all back";
}

// A guest that has asked for as much as it gets and is reset leaves nothing.
TEST_F(Limits, ResetGivesAllMemoryBack)
{
    auto use = [this] {
        pd = device.create_pd().value();
        cq = device.create_cq(cq_slots, cq_pages).value();
        for (int i = 0; i < 1000; ++i) {
            make_mr().value();
            make_qp().value();
        }
        device.reset();
        qps.clear();
        return heap;
    };
    use();
    device.bring_up();
    size_t first = use();
    device.bring_up();
    EXPECT_EQ(use(), first);
}

// Whose peers have gone: their requests are not acknowledged, and are part of the state.
TEST_F(Limits, RequestsThatAllQpsHoldHaveABoundAndEachQpGoesOn)
{
    constexpr size_t pairs = 600;
    constexpr uint32_t depth = 512;
    const QueueShape deep{qpt_rc, depth, depth, 1};
    const QueuePages deep_pages = device.qp_pages(deep);
    pd = device.create_pd().value();
    cq = device.create_cq(2 * depth, device.queue_pages(WholeDevice::cq_pages(2 * depth))).value();
    key = device.register_memory(pd, buffer, page_size, buffer_directory).value().lkey;
    std::vector<std::array<DeviceQp, 2>> qp_pairs(pairs);
    auto send = [&](const DeviceQp& from) {
        device.ram.at<std::array<RingState, 2>>(deep_pages.state) = {};
        for (uint64_t i = 0; i < depth; ++i) {
            device.post_send(from, wr_rdma_write, i, buffer, 8, key, buffer + 8, key);
        }
        device.ring_send(from);
        while (device.run_timer()) {
        }
        uint32_t completed = 0;
        while (const Cqe* cqe = device.poll(cq)) {
            completed += cqe->status == IBV_WC_SUCCESS;
        }
        return completed;
    };
    for (auto& [a, b] : qp_pairs) {
        a = device.create_qp(deep, pd, cq.handle, deep_pages).value();
        b = device.create_qp(shape, pd, cq.handle, pages).value();
        device.connect(a, number, b.qpn);
        device.connect(b, number, a.qpn);
        ASSERT_EQ(send(a), depth) << "its window grows";
    }
    for (size_t i = 0; i + 1 < pairs; ++i) {
        auto [a, b] = qp_pairs[i];
        ASSERT_EQ(device.destroy(cmd_destroy_qp, b.handle), 0);
        ASSERT_EQ(send(a), 0u);
    }
    EXPECT_EQ(send(qp_pairs.back()[0]), depth) << "others hold all there may be";
    device.stop();
    constexpr size_t most = 65536 + 16 * pairs; // requests
    constexpr size_t request = 160;             // bytes of one with an SGE
    constexpr size_t qp = 2048;
    EXPECT_LT(device.save().size(), most * request + 2 * pairs * qp);
    EXPECT_GT(device.save().size(), 65536u * 128);
}

// The highest that properties may be, where the state has something of that size.
PvrdmaConfig highest()
{
    PvrdmaConfig config = WholeDevice::defaults();
    config.max_qp = 65535;
    config.max_qp_wr = 32768;
    config.max_sge = 32;
    config.max_cq = 65536;
    config.max_cqe = 4194304;
    config.max_mr_size = uint64_t{1} << 39;
    config.max_srq = 65535;
    config.max_srq_wr = 32768;
    config.max_srq_sge = 32;
    config.max_uar = 65536;
    config.gid_tbl_len = 256;
    return config;
}

void expect_saved_and_loaded(WholeDevice& device)
{
    device.stop();
    auto state = device.save();
    WholeDevice other(number, 1 << 20, highest());
    other.stop();
    EXPECT_EQ(other.load(state), "");
    EXPECT_TRUE(other.save() == state);
}

TEST(LargestState, TheLargestObjectOfEachKindIsSavedAndLoaded)
{
    PvrdmaConfig config = highest();
    WholeDevice device(number, uint64_t{3} << 29, config);
    device.bring_up();
    uint32_t pd = device.create_pd().value();
    auto cq = device.create_cq(config.max_cqe,
                               device.queue_pages(WholeDevice::cq_pages(config.max_cqe)));
    ASSERT_TRUE(cq.has_value());
    QueueShape shape{qpt_rc, config.max_qp_wr, config.max_qp_wr, config.max_sge};
    ASSERT_TRUE(device.create_qp(shape, pd, cq->handle, device.qp_pages(shape)).has_value());
    QueuePages srq_pages = device.queue_pages(shape.recv_pages());
    CmdCreateSrq srq{.pdir_dma = srq_pages.directory,
                     .pd_handle = pd,
                     .nchunks = srq_pages.count,
                     .attrs = {.max_wr = config.max_srq_wr, .max_sge = config.max_srq_sge}};
    ASSERT_EQ(device.execute(cmd_create_srq, srq), 0);
    // A page directory's.
    constexpr uint64_t pages = page_dir_max_pages;
    ASSERT_TRUE(device.register_memory(pd, 0, pages * page_size,
                                       device.ram.directory(Ram::base, pages)).has_value());
    for (uint32_t index = 1; index < config.gid_tbl_len; ++index) {
        CmdCreateBind bind{.mtu = 4500, .index = index, .gid_type = gid_type_v2};
        bind.gid[15] = static_cast<uint8_t>(index);
        ASSERT_EQ(device.execute(cmd_create_bind, bind), 0);
    }
    expect_saved_and_loaded(device);
}

TEST(LargestState, TheMostObjectsAreSavedAndLoaded)
{
    PvrdmaConfig config = highest();
    WholeDevice device(number, 64 << 20, config);
    device.bring_up();
    uint32_t pd = device.create_pd().value();
    QueuePages cq_pages = device.queue_pages(1);
    QueuePages srq_pages = device.queue_pages(1);
    QueueShape shape;
    QueuePages qp_pages = device.qp_pages(shape);
    for (uint32_t i = 0; i < config.max_cq; ++i) {
        ASSERT_TRUE(device.create_cq(64, cq_pages).has_value());
    }
    for (uint32_t i = 0; i < config.max_srq; ++i) {
        ASSERT_TRUE(device.create_srq(pd, 64, srq_pages).has_value());
    }
    for (uint32_t i = special_qps; i < config.max_qp; ++i) {
        ASSERT_TRUE(device.create_qp(shape, pd, 0, qp_pages).has_value());
    }
    for (uint32_t i = 1; i < config.max_uar; ++i) {
        ASSERT_EQ(device.execute(cmd_create_uc, CmdCreateUc{}), 0);
    }
    expect_saved_and_loaded(device);
}

} // namespace
} // namespace rdma::test
