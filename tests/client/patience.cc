// SPDX-License-Identifier: GPL-2.0-or-later
//
// What becomes of a message to a peer that is not there for a while, when the QP
// gives up after two timeouts of 4 ms. The host says when to send, and stops
// the peer in between. Nobody polls: only the network is at work.
#include <iostream>

#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

constexpr QpOptions impatient{.timeout = 10, .retry_cnt = 1};
constexpr unsigned max_messages = 64;
constexpr size_t size = 1000;

struct CompletionChannel {
    explicit CompletionChannel(ibv_context* context) : channel(ibv_create_comp_channel(context))
    {
        expect(channel != nullptr, "ibv_create_comp_channel");
    }
    ~CompletionChannel() { ibv_destroy_comp_channel(channel); }
    CompletionChannel(const CompletionChannel&) = delete;
    CompletionChannel& operator=(const CompletionChannel&) = delete;

    ibv_comp_channel* channel;
};

// The next completion, without polling for it.
ibv_wc wait_completion(ibv_comp_channel* channel, ibv_cq* cq)
{
    for (;;) {
        expect(ibv_req_notify_cq(cq, 0) == 0, "ibv_req_notify_cq");
        ibv_wc wc{};
        if (int n = ibv_poll_cq(cq, 1, &wc); n != 0) {
            expect(n == 1, "ibv_poll_cq failed");
            return wc;
        }
        ibv_cq* event_cq = nullptr;
        void* context = nullptr;
        expect(ibv_get_cq_event(channel, &event_cq, &context) == 0, "ibv_get_cq_event");
        ibv_ack_cq_events(event_cq, 1);
    }
}

void send_as_told(Peer& peer, const Buffer& buffer, ibv_qp* qp, ibv_comp_channel* channel, ibv_cq* cq)
{
    uint64_t sent = 0;
    for (std::string line; std::getline(std::cin, line) && line != "end" && sent < max_messages;) {
        fill(buffer.bytes().first(size), sent);
        ibv_sge sge = buffer.sge(0, size);
        ibv_send_wr wr{};
        wr.wr_id = sent;
        wr.opcode = IBV_WR_SEND;
        wr.send_flags = IBV_SEND_SIGNALED;
        wr.sg_list = &sge;
        wr.num_sge = 1;
        post_send(qp, wr);
        fmt::print("patience: message {} is under way\n", sent);
        std::fflush(stdout);
        ibv_wc wc = wait_completion(channel, cq);
        expect(wc.wr_id == sent && wc.status == IBV_WC_SUCCESS, "message {}: {}", sent,
               ibv_wc_status_str(wc.status));
        fmt::print("patience: message {} has arrived\n", sent);
        std::fflush(stdout);
        ++sent;
    }
    peer.control.send(sent);
}

} // namespace

void verify_patience(Peer& peer)
{
    CompletionChannel channel(peer.device.context());
    OwnedCq cq(ibv_create_cq(peer.device.context(), max_messages, nullptr, channel.channel, 0));
    expect(cq != nullptr, "ibv_create_cq");
    Buffer buffer(peer.device, max_messages * size);
    OwnedQp qp = peer.device.create_qp(IBV_QPT_RC, cq.get(), cq.get(),
                                       {max_messages, max_messages, 1, 1, 0});
    QpAddress ours = address_of(peer.device, *qp);
    connect(peer.device, qp.get(), ours, peer.control.exchange(ours), impatient);
    if (!peer.is_client) {
        for (unsigned i = 0; i < max_messages; ++i) {
            ibv_sge sge = buffer.sge(i * size, size);
            post_recv(qp.get(), i, {&sge, 1});
        }
    }
    peer.control.barrier();
    if (peer.is_client) {
        fmt::print("patience: connected\n");
        std::fflush(stdout);
        send_as_told(peer, buffer, qp.get(), channel.channel, cq.get());
        return;
    }
    auto sent = peer.control.receive<uint64_t>();
    for (uint64_t i = 0; i < sent; ++i) {
        expect_completion(cq.get(), i);
        check(buffer.bytes().subspan(i * size, size), i, 0, "SEND");
    }
    expect_empty(cq.get());
}

} // namespace verify
