// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management with the kernel's own connection manager, which has
// the second device of the command line; rdmacm-mux has the first. It is another hand's
// work, and says what it thinks of ours.
#include <future>

#include "cm_end.h"
#include "verbs_host.h"

namespace rdma::test {
namespace {

constexpr uint16_t reason_invalid_service = 8; // IBTA vol. 1, table 108
constexpr uint16_t reason_consumer = 28;
constexpr uint8_t sidr_unsupported = 1; // table 119

class KernelPeer : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override
    {
        daemon.start();
        a = std::make_unique<CmEnd>(GetParam(), mux_path);
        // What is sent before the daemon answers is lost; a loops back to itself.
        ASSERT_TRUE(run_until({a.get()}, [&] {
            a->send(a->end.gid, cm_mad(CmKind::mra, 1));
            return a->count(CmKind::mra) > 0;
        }));
        a->received.clear();
        ASSERT_EQ(shell("modprobe rdma_ucm"), 0);
        peer = address_of_port(*open_port(all_devices().back()));
    }
    void TearDown() override { shell("modprobe -r rdma_ucm rdma_cm iw_cm ib_cm"); }

    // The next message of that kind with that id of ours.
    CmEnd::Received next(CmKind kind, uint32_t id)
    {
        auto is_it = [&](const CmEnd::Received& r) {
            uint32_t ours = kind == CmKind::sidr_rep ? r.first_id() : r.second_id();
            return r.kind() == kind && ours == id;
        };
        bool came = run_until({a.get()}, [&] { return std::ranges::any_of(a->received, is_it); });
        EXPECT_TRUE(came) << "no message of kind " << static_cast<int>(kind) << what_came();
        auto found = std::ranges::find_if(a->received, is_it);
        return found != a->received.end() ? *found : CmEnd::Received{};
    }
    std::string what_came() const
    {
        std::string text;
        for (const CmEnd::Received& got : a->received) {
            text += fmt::format(", but {:#x}: {:08x} {:08x} {:08x}", static_cast<int>(got.kind()),
                                got.first_id(), got.second_id(), word_at(got.mad, cm_data_at + 8));
        }
        return text;
    }
    // With all that a kernel looks at (12.6.5).
    Mad request(uint32_t id, uint64_t service)
    {
        constexpr size_t at = cm_data_at;
        Mad mad = cm_mad(CmKind::req, id);
        ask_for(mad, service, peer);
        put_big_endian(mad, at + 140 + 2, uint16_t{12345});             // the port it comes from
        std::memcpy(&mad.bytes[at + 140 + 16], a->end.gid.raw + 12, 4); // and the address
        put_big_endian(mad, at + 16, uint64_t{0x1122334455667788});     // GUID
        put_big_endian(mad, at + 32, uint32_t{0x000123'01});            // QPN, responder resources
        put_big_endian(mad, at + 36, uint32_t{1});                      // initiator depth
        put_big_endian(mad, at + 40, uint32_t{18 << 3});                // response timeout, RC
        put_big_endian(mad, at + 44, uint32_t{18 << 3 | 7});            // and ours, retry count
        put_big_endian(mad, at + 48, uint16_t{0xffff});                 // P_Key
        mad.bytes[at + 50] = std::byte{3 << 4 | 7};                     // MTU 1024, RNR retry count
        mad.bytes[at + 51] = std::byte{15 << 4};                        // CM retries
        put_big_endian(mad, at + 52, uint32_t{0xffffffff});             // LIDs, permissive
        std::memcpy(&mad.bytes[at + 56], a->end.gid.raw, 16);
        std::memcpy(&mad.bytes[at + 72], peer.raw, 16);
        put_big_endian(mad, at + 88, uint32_t{3}); // rate
        mad.bytes[at + 93] = std::byte{64};        // hop limit
        mad.bytes[at + 95] = std::byte{18 << 3};   // acknowledge timeout
        return mad;
    }

    Daemon daemon;
    std::unique_ptr<CmEnd> a;
    ibv_gid peer{};
};

TEST_P(KernelPeer, what_nobody_listens_for_is_rejected)
{
    a->send(peer, request(0x4711, tcp_service | 9));
    CmEnd::Received rejection = next(CmKind::rej, 0x4711);
    EXPECT_EQ(word_at(rejection.mad, cm_data_at + 8) & 0xffff, reason_invalid_service);

    Mad resolution = cm_mad(CmKind::sidr_req, 0x4712);
    put_big_endian(resolution, cm_data_at + 4, uint16_t{0xffff}); // P_Key
    ask_for(resolution, 0x0000'0000'0111'0009, peer);
    a->send(peer, resolution);
    CmEnd::Received answer = next(CmKind::sidr_rep, 0x4712);
    EXPECT_EQ(std::to_integer<uint8_t>(answer.mad.bytes[cm_data_at + 4]), sidr_unsupported);

    // A connection that it does not know.
    a->send(peer, cm_mad(CmKind::dreq, 0x4713, 0x999));
    EXPECT_EQ(next(CmKind::drep, 0x4713).first_id(), 0x999u);
}

TEST_P(KernelPeer, a_request_of_the_kernels_arrives)
{
    auto client = std::async(std::launch::async, [&] {
        return shell("timeout 60 rping -c -a 10.0.0.1 -I 10.0.1.1 -p 7471 -C 1");
    });
    ASSERT_TRUE(run_until({a.get()}, [&] { return a->count(CmKind::req) > 0; }));
    const CmEnd::Received& got =
        *std::ranges::find(a->received, CmKind::req, &CmEnd::Received::kind);
    auto message = verbs::parse_cm_message(got.mad.bytes);
    ASSERT_TRUE(message && message->ip_destination);
    EXPECT_TRUE(same_gid(*message->ip_destination, a->end.gid));
    Mad rejection = cm_mad(CmKind::rej, 0, got.first_id());
    put_big_endian(rejection, cm_data_at + 10, reason_consumer);
    a->send(peer, rejection);
    EXPECT_NE(client.get(), 0);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KernelPeer);
INSTANTIATE_TEST_SUITE_P(Backend, KernelPeer, testing::ValuesIn(devices_under_test()));

} // namespace
} // namespace rdma::test
