// SPDX-License-Identifier: GPL-2.0-or-later
//
// The memory management extensions (IBTA vol. 1, 10.6.4): fast registration,
// local and remote invalidation, and the DMA region.
#include <cerrno>

#include "engine_harness.h"

namespace rdma::test {
namespace {

constexpr uint64_t a_buffer = ram_base;
constexpr uint64_t first_page = ram_base + 0x100000;
constexpr uint64_t second_page = ram_base + 0x140000;
constexpr uint64_t iova = 0x7000'0000'0800; // not at the start of a page
constexpr uint32_t length = 0x1000;         // so it ends in the middle of the second
constexpr int all_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

struct MemoryManagement : testing::Test {
    Node a{1}, b{2};
    Network network;
    MrKeys ka = a.register_ram();
    QpNumbers qa = a.create_qp(IBV_QPT_RC), qb = b.create_qp(IBV_QPT_RC);
    MrKeys region = b.fast_reg_region(2, all_access);

    void SetUp() override
    {
        network.add(a);
        network.add(b);
        connect(a, qa, b, qb);
        for (size_t i = 0; i < 0x2000; ++i) {
            *(a.at(a_buffer) + i) = static_cast<std::byte>(i * 13 + i / 256 + 1);
        }
    }
    static SendRequest registration(uint32_t key, int access = all_access)
    {
        return fast_registration(100, key, iova, length, {first_page, second_page}, access);
    }
    static SendRequest invalidation(uint32_t key)
    {
        SendRequest request;
        request.opcode = IBV_WR_LOCAL_INV;
        request.wr.wr_id = 101;
        request.wr.send_flags = IBV_SEND_SIGNALED;
        request.wr.invalidate_rkey = key;
        return request;
    }
    ibv_wc_status carry_out(Node& node, QpNumbers qp, const SendRequest& request)
    {
        return test::carry_out(network, node, qp, request);
    }
    ibv_wc_status at_b(const SendRequest& request) { return carry_out(b, qb, request); }
    ibv_wc_status write_from_a(uint32_t rkey, uint64_t to = iova, uint32_t size = length)
    {
        return carry_out(a, qa,
                         send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, size, ka.lkey, to, rkey));
    }
    // Both QPs anew, after an error.
    void reconnect()
    {
        qa = a.create_qp(IBV_QPT_RC);
        qb = b.create_qp(IBV_QPT_RC);
        connect(a, qa, b, qb);
    }
};

// [virtio-rdma REQ-18]
TEST_F(MemoryManagement, a_region_is_of_no_use_before_its_registration)
{
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_REM_ACCESS_ERR);
}

TEST_F(MemoryManagement, a_registration_gives_the_peer_the_pages_named)
{
    ASSERT_EQ(at_b(registration(region.rkey)), IBV_WC_SUCCESS);
    ASSERT_EQ(write_from_a(region.rkey), IBV_WC_SUCCESS);
    EXPECT_EQ(std::memcmp(a.at(a_buffer), b.at(first_page + 0x800), 0x800), 0);
    EXPECT_EQ(std::memcmp(a.at(a_buffer + 0x800), b.at(second_page), 0x800), 0);
    EXPECT_EQ(*b.at(first_page + 0x7ff), std::byte{0});
    EXPECT_EQ(*b.at(second_page + 0x800), std::byte{0});
}

TEST_F(MemoryManagement, what_lies_outside_is_refused)
{
    ASSERT_EQ(at_b(registration(region.rkey)), IBV_WC_SUCCESS);
    EXPECT_EQ(write_from_a(region.rkey, iova - 1, 1), IBV_WC_REM_ACCESS_ERR);
    reconnect();
    EXPECT_EQ(write_from_a(region.rkey, iova + 1), IBV_WC_REM_ACCESS_ERR);
}

// [IBTA 9.7.4.1.5-1]
TEST_F(MemoryManagement, access_is_what_the_registration_says)
{
    ASSERT_EQ(at_b(registration(region.rkey, IBV_ACCESS_REMOTE_READ)), IBV_WC_SUCCESS);
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_REM_ACCESS_ERR);
}

// [virtio-rdma CTL-13]
TEST_F(MemoryManagement, the_low_byte_of_the_key_is_the_consumers)
{
    uint32_t key = (region.rkey & ~0xffu) | ((region.rkey + 1) & 0xff);
    ASSERT_EQ(at_b(registration(key)), IBV_WC_SUCCESS);
    EXPECT_EQ(write_from_a(key), IBV_WC_SUCCESS);
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_REM_ACCESS_ERR);
}

// [virtio-rdma REQ-18]
TEST_F(MemoryManagement, an_invalidation_takes_it_back)
{
    ASSERT_EQ(at_b(registration(region.rkey)), IBV_WC_SUCCESS);
    ASSERT_EQ(at_b(invalidation(region.rkey)), IBV_WC_SUCCESS);
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_REM_ACCESS_ERR);
    reconnect();
    ASSERT_EQ(at_b(registration(region.rkey)), IBV_WC_SUCCESS);
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_SUCCESS);
}

// [IBTA 9.3.7-1] [IBTA 9.4.1-2]
TEST_F(MemoryManagement, the_peer_can_take_it_back)
{
    ASSERT_EQ(at_b(registration(region.rkey)), IBV_WC_SUCCESS);
    MrKeys kb = b.register_ram();
    b.recv_queues[qb.id].push_back(recv_request(5, ram_base + 0x180000, 64, kb.lkey));
    SendRequest send = send_request(IBV_WR_SEND_WITH_INV, 1, a_buffer, 16, ka.lkey);
    send.wr.invalidate_rkey = region.rkey;
    ASSERT_EQ(carry_out(a, qa, send), IBV_WC_SUCCESS);
    auto received = b.take_completions();
    ASSERT_EQ(received.size(), 1u);
    EXPECT_TRUE(received[0].wc.wc_flags & IBV_WC_WITH_INV);
    EXPECT_EQ(received[0].wc.invalidated_rkey, region.rkey);
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_REM_ACCESS_ERR);
}

// [IBTA 9.4.1-3]
// [virtio-rdma REQ-17]
TEST_F(MemoryManagement, a_user_region_cannot_be_taken_back_by_the_peer)
{
    MrKeys kb = b.register_ram();
    b.recv_queues[qb.id].push_back(recv_request(5, ram_base + 0x180000, 64, kb.lkey));
    SendRequest send = send_request(IBV_WR_SEND_WITH_INV, 1, a_buffer, 16, ka.lkey);
    send.wr.invalidate_rkey = kb.rkey;
    EXPECT_EQ(carry_out(a, qa, send), IBV_WC_REM_ACCESS_ERR);
    reconnect();
    EXPECT_EQ(write_from_a(kb.rkey, ram_base, 16), IBV_WC_SUCCESS);
}

// [IBTA 9.4.1-3]
// [virtio-rdma REQ-17]
TEST_F(MemoryManagement, a_region_without_remote_rights_cannot_be_taken_back_by_the_peer)
{
    ASSERT_EQ(at_b(registration(region.rkey, IBV_ACCESS_LOCAL_WRITE)), IBV_WC_SUCCESS);
    MrKeys kb = b.register_ram();
    b.recv_queues[qb.id].push_back(recv_request(5, ram_base + 0x180000, 64, kb.lkey));
    SendRequest send = send_request(IBV_WR_SEND_WITH_INV, 1, a_buffer, 16, ka.lkey);
    send.wr.invalidate_rkey = region.rkey;
    EXPECT_EQ(carry_out(a, qa, send), IBV_WC_REM_ACCESS_ERR);
    auto received = b.take_completions();
    ASSERT_EQ(received.size(), 1u);
    EXPECT_EQ(received[0].wc.status, IBV_WC_MW_BIND_ERR);
    reconnect();
    EXPECT_EQ(at_b(invalidation(region.rkey)), IBV_WC_SUCCESS) << "it is still registered";
}

// [virtio-rdma REQ-17]
TEST_F(MemoryManagement, bad_invalidations_fail)
{
    MrKeys kb = b.register_ram();
    for (uint32_t key : {region.rkey, region.rkey ^ 1, kb.rkey, 0u, ~0u}) {
        EXPECT_EQ(at_b(invalidation(key)), IBV_WC_MW_BIND_ERR) << key;
        reconnect();
    }
    EXPECT_EQ(write_from_a(kb.rkey, ram_base, 16), IBV_WC_SUCCESS);
}

// [virtio-rdma REQ-12]
TEST_F(MemoryManagement, an_invalidation_waits_for_what_was_posted_before_it)
{
    MrKeys ra = a.fast_reg_region(2, all_access);
    SendRequest reg = registration(ra.lkey);
    std::memcpy(a.at(first_page + 0x800), a.at(a_buffer), 0x800);
    std::memcpy(a.at(second_page), a.at(a_buffer + 0x800), 0x800);
    MrKeys kb = b.register_ram();
    a.send_queues[qa.id] = {reg,
                            send_request(IBV_WR_RDMA_WRITE, 2, iova, length, ra.lkey,
                                         ram_base + 0x200000, kb.rkey),
                            invalidation(ra.lkey)};
    // The write's packets are lost once, and sent again from the region.
    network.filter = [&, lost = 0](Node& from, auto&) mutable { return &from != &a || lost++ > 4; };
    network.ring(a, qa.id);
    ASSERT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 3u);
    for (const Completion& completion : done) {
        EXPECT_EQ(completion.wc.status, IBV_WC_SUCCESS);
    }
    EXPECT_EQ(std::memcmp(a.at(a_buffer), b.at(ram_base + 0x200000), length), 0);
}

TEST_F(MemoryManagement, a_registration_is_carried_out_once_when_what_is_before_it_is_sent_again)
{
    MrKeys ra = a.fast_reg_region(2, all_access);
    MrKeys kb = b.register_ram();
    SendRequest write =
        send_request(IBV_WR_RDMA_WRITE, 1, a_buffer, 16, ka.lkey, ram_base + 0x200000, kb.rkey);
    a.send_queues[qa.id] = {write, registration(ra.lkey), write};
    network.filter = [&, lost = 0](Node& from, auto&) mutable { return &from != &a || lost++ > 0; };
    network.ring(a, qa.id);
    ASSERT_TRUE(network.settle());
    auto done = a.take_completions();
    ASSERT_EQ(done.size(), 3u);
    for (const Completion& completion : done) {
        EXPECT_EQ(completion.wc.status, IBV_WC_SUCCESS) << completion.wc.wr_id;
    }
}

// 128: what the devices advertise.
TEST_F(MemoryManagement, the_longest_page_list_is_served)
{
    constexpr uint32_t pages = 128;
    MrKeys large = b.fast_reg_region(pages, all_access);
    SendRequest request = registration(large.rkey);
    request.fast_reg.iova = iova & ~0xfffull;
    request.fast_reg.length = pages * page_size;
    request.fast_reg.num_pages = pages;
    for (uint32_t i = 0; i < pages; ++i) {
        // Last page first, every other page.
        request.fast_reg.pages[i] = first_page + uint64_t{pages - 1 - i} * 2 * page_size;
    }
    for (size_t i = 0; i < pages * page_size; ++i) {
        *(a.at(a_buffer) + i) = static_cast<std::byte>(i * 7 + i / 4096);
    }
    ASSERT_EQ(at_b(request), IBV_WC_SUCCESS);
    ASSERT_EQ(write_from_a(large.rkey, request.fast_reg.iova, pages * page_size), IBV_WC_SUCCESS);
    for (uint32_t i = 0; i < pages; ++i) {
        ASSERT_EQ(std::memcmp(a.at(a_buffer + i * page_size), b.at(request.fast_reg.pages[i]),
                              page_size),
                  0)
            << i;
    }
}

// [IBTA C9-88]
TEST_F(MemoryManagement, a_registration_behind_a_failure_is_not_carried_out)
{
    b.send_queues[qb.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 1, ram_base, 0, 0, 0x666, 0x1234));
    b.send_queues[qb.id].push_back(
        send_request(IBV_WR_RDMA_WRITE, 2, ram_base, 8, 0x4321, 0x666, 0x1234));
    b.send_queues[qb.id].push_back(registration(region.rkey));
    network.ring(b, qb.id);
    ASSERT_TRUE(network.settle());
    auto done = b.take_completions();
    ASSERT_EQ(done.size(), 3u);
    EXPECT_EQ(done[0].wc.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done[1].wc.status, IBV_WC_LOC_PROT_ERR);
    EXPECT_EQ(done[2].wc.status, IBV_WC_WR_FLUSH_ERR);
    reconnect();
    EXPECT_EQ(write_from_a(region.rkey), IBV_WC_REM_ACCESS_ERR);
}

// [virtio-rdma REQ-18]
TEST_F(MemoryManagement, bad_registrations_fail)
{
    struct Bad {
        const char* what;
        void (*change)(SendRequest&);
    };
    for (const Bad& bad : {
             Bad{"no such region", [](SendRequest& r) { r.fast_reg.key += 0x100; }},
             Bad{"more pages than it holds",
                 [](SendRequest& r) {
                     r.fast_reg.num_pages = 3;
                     r.fast_reg.pages[2] = first_page;
                 }},
             Bad{"longer than its pages", [](SendRequest& r) { r.fast_reg.length = 0x1801; }},
             Bad{"no bytes", [](SendRequest& r) { r.fast_reg.length = 0; }},
             Bad{"no pages", [](SendRequest& r) { r.fast_reg.num_pages = 0; }},
             Bad{"beyond the end of addresses",
                 [](SendRequest& r) { r.fast_reg.iova = ~0x7ffull; }},
             Bad{"remote write without local write",
                 [](SendRequest& r) { r.fast_reg.access = IBV_ACCESS_REMOTE_WRITE; }},
         }) {
        SendRequest request = registration(region.rkey);
        bad.change(request);
        EXPECT_EQ(at_b(request), IBV_WC_MW_BIND_ERR) << bad.what;
        reconnect();
    }
    ASSERT_EQ(at_b(registration(region.rkey)), IBV_WC_SUCCESS);
    EXPECT_EQ(at_b(registration(region.rkey)), IBV_WC_MW_BIND_ERR); // valid already
}

// [virtio-rdma REQ-18]
TEST_F(MemoryManagement, a_region_belongs_to_its_protection_domain)
{
    uint32_t other = b.engine.alloc_pd().value();
    std::swap(b.pd, other);
    MrKeys foreign = b.fast_reg_region(2, all_access);
    std::swap(b.pd, other);
    EXPECT_EQ(at_b(registration(foreign.rkey)), IBV_WC_MW_BIND_ERR);
}

TEST_F(MemoryManagement, the_dma_region_is_addressed_by_physical_address)
{
    MrInit init;
    init.kind = MrInit::Kind::dma;
    init.pd = b.pd;
    init.access = IBV_ACCESS_LOCAL_WRITE;
    MrKeys dma = b.engine.reg_mr(init).value();
    b.recv_queues[qb.id].push_back(recv_request(5, second_page + 8, 64, dma.lkey));
    ASSERT_EQ(carry_out(a, qa, send_request(IBV_WR_SEND, 1, a_buffer, 64, ka.lkey)),
              IBV_WC_SUCCESS);
    EXPECT_EQ(std::memcmp(a.at(a_buffer), b.at(second_page + 8), 64), 0);
    // Only for the guest itself.
    EXPECT_EQ(write_from_a(dma.rkey, first_page, 8), IBV_WC_REM_ACCESS_ERR);
    init.access |= IBV_ACCESS_REMOTE_WRITE;
    EXPECT_EQ(b.engine.reg_mr(init).error(), EINVAL);
}

// The page lists of all regions together have a bound, whatever their number.
// [virtio-rdma SEC-7]
TEST(MemoryRegions, what_is_registered_is_bounded)
{
    GuestMemory memory;
    constexpr uint64_t size = uint64_t{256} << 20;
    constexpr uint64_t most = max_pages_registered / (size / page_size);
    roce::MemoryRegions regions(10'000, size, memory);
    std::vector<uint64_t> pages(size / page_size, ram_base);
    MrInit init;
    init.length = size;
    init.pages = pages;
    for (uint64_t i = 0; i < most; ++i) {
        ASSERT_TRUE(regions.add(init).has_value()) << i;
    }
    auto one_more = regions.add(init);
    ASSERT_FALSE(one_more.has_value());
    EXPECT_EQ(one_more.error(), ENOMEM);
    ASSERT_EQ(regions.remove(1), 0);
    EXPECT_TRUE(regions.add(init).has_value()) << "what is given back is there again";
}

} // namespace
} // namespace rdma::test
