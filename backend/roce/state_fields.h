// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fields of the engine's objects in a state stream (migration/archive.h has
// the notation). What can be computed from others is not among them; what a
// value may be beyond its range is checked in engine_state.cc.
#pragma once

#include <utility>

#include "archive.h"
#include "attribute_fields.h"
#include "gid_table.h"
#include "memory_region.h"
#include "queue_pair.h"
#include "requester.h"
#include "responder.h"

namespace rdma::roce {

using rdma::describe;

template <typename Archive>
void describe(Archive& a, const char* name, Psn& psn)
{
    uint32_t value = psn.value();
    a.u32(name, value, Psn::mask);
    psn = Psn(value);
}

// Bits of ibv_access_flags that the engine knows.
inline constexpr uint16_t access_mask = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                        IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// What there is once of an engine.
struct PortState {
    Mac mac{};
    uint8_t key_variant = 0;
    std::vector<uint8_t> qpn_generations; // of each QP id, from 0 on
};

// The ids that come next, if they are free.
struct NumberState {
    uint32_t next_qp = 0;
    uint32_t next_mr = 0;
};

template <typename Archive>
void describe(Archive& a, NumberState& numbers)
{
    a.u32("next_qp", numbers.next_qp);
    a.u32("next_mr", numbers.next_mr);
}

template <typename Archive>
void describe(Archive& a, PortState& port)
{
    a.bytes("mac", port.mac);
    a.u8("key_variant", port.key_variant);
    a.blob("qpn_generations", port.qpn_generations, 65536);
}

template <typename Archive>
void describe(Archive& a, uint32_t& index, GidTable::Entry& entry)
{
    a.u32("index", index);
    a.bytes("gid", entry.gid.raw);
    a.u8("network", entry.network, static_cast<uint8_t>(NetworkType::ipv6));
    a.flag("vlan_given", entry.vlan_given);
    uint16_t vlan = entry.vlan.value_or(0);
    bool has_vlan = entry.vlan.has_value();
    a.present("vlan", has_vlan, [&] { a.u16("vlan", vlan); });
    if constexpr (Archive::is_reader) {
        entry.vlan = has_vlan ? std::optional(vlan) : std::nullopt;
    }
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, MemoryRegion& mr, uint64_t max_pages)
{
    a.u32("id", id);
    a.u8("kind", mr.kind, static_cast<uint8_t>(MrInit::Kind::fast_reg));
    a.u32("pd", mr.pd);
    a.u32("key", mr.key);
    a.flag("valid", mr.valid);
    a.u16("access", mr.access, access_mask);
    a.u64("iova", mr.iova);
    a.u64("length", mr.length);
    a.u32("max_pages", mr.max_pages, max_fast_reg_pages);
    a.pages("pages", mr.pages, max_pages);
}

template <typename Archive>
void describe(Archive& a, uint32_t& id, Srq& srq)
{
    a.u32("id", id);
    a.u32("pd", srq.pd);
    a.u32("max_wr", srq.attr.max_wr);
    a.u32("max_sge", srq.attr.max_sge, max_sge_limit);
    a.u32("srq_limit", srq.attr.srq_limit);
}

// A path is the headers of its packets, and which VLAN's tag is put among them.
template <typename Archive>
void describe(Archive& a, Path& path)
{
    std::vector<uint8_t> headers(path.headers().begin(), path.headers().end());
    uint32_t gid_index = path.gid_index();
    uint8_t priority = path.priority();
    a.blob("headers", headers, Path::max_headers);
    a.u32("gid_index", gid_index);
    a.u8("priority", priority, 7);
    if constexpr (Archive::is_reader) {
        auto parsed = Path::from_headers(headers, gid_index, priority);
        if (parsed) {
            path = *parsed;
        } else if (!headers.empty()) {
            a.fail("headers", "are not those of a RoCE packet");
        }
    }
}

template <typename Archive>
void describe(Archive& a, SendWqe& wqe, FastRegistration& registration)
{
    a.u64("wr_id", wqe.wr_id);
    a.u16("opcode", wqe.opcode, wr_fast_reg);
    a.u8("send_flags", wqe.send_flags);
    a.flag("signaled", wqe.signaled);
    a.flag("initiated", wqe.initiated);
    a.u8("status", wqe.status, IBV_WC_GENERAL_ERR);
    a.u32("immediate", wqe.immediate);
    a.u64("remote_address", wqe.remote_address);
    a.u32("rkey", wqe.rkey);
    a.u64("compare_add", wqe.compare_add);
    a.u64("swap", wqe.swap);
    a.u32("remote_qpn", wqe.remote_qpn);
    a.u32("remote_qkey", wqe.remote_qkey);
    a.record("av", [&] { describe(a, wqe.av.attr); });
    a.bytes("dmac", wqe.av.dmac);
    a.list("sges", wqe.sges, max_sge_limit, [](auto& b, ibv_sge& sge) { describe(b, sge); });
    a.u64("fast_reg_iova", registration.iova);
    a.u64("fast_reg_length", registration.length);
    a.u32("fast_reg_key", registration.key);
    a.u16("fast_reg_access", registration.access, access_mask);
    a.pages("fast_reg_pages", registration.pages, max_fast_reg_pages);
    describe(a, "first_psn", wqe.first_psn);
    a.u32("num_packets", wqe.num_packets, Psn::mask);
}

// remaining: of the QP's timer, nanoseconds; no_deadline where it does not run.
template <typename Archive>
void describe(Archive& a, RequesterState& req, int64_t& remaining)
{
    describe(a, "next_psn", req.window._next);
    describe(a, "send_psn", req.window._send);
    describe(a, "max_psn", req.window._max);
    describe(a, "una_psn", req.window._una);
    a.u32("since_ack_request", req.since_ack_request);
    a.u8("retries_left", req.retries_left);
    a.u8("rnr_retries_left", req.rnr_retries_left);
    a.flag("rnr_wait", req.rnr_wait);
    describe(a, "rnr_psn", req.rnr_psn);
    a.flag("recovering", req.recovering);
    a.u64("timer_remaining", remaining, static_cast<uint64_t>(no_deadline));
    bool registers = false;
    a.list("sq", req.window._requests, max_accepted, [&](auto& b, SendWqe& wqe) {
        // Of one that has been carried out nothing is left.
        FastRegistration registration;
        if constexpr (!Archive::is_reader) {
            if (wqe.awaits_registration()) {
                registration = req.registration;
            }
        }
        describe(b, wqe, registration);
        if constexpr (Archive::is_reader) {
            if (wqe.awaits_registration() && std::exchange(registers, true)) {
                b.fail("fast_reg_pages", "belong to a second registration to carry out");
            }
            if (wqe.awaits_registration()) {
                req.registration = std::move(registration);
            }
        }
    });
}

template <typename Archive>
void describe(Archive& a, RecvRequest& recv)
{
    a.u64("wr_id", recv.wr_id);
    a.u8("malformed", recv.malformed, IBV_WC_GENERAL_ERR);
    std::vector<ibv_sge> sges(recv.sge.begin(), recv.sge.begin() + recv.num_sge);
    a.list("sges", sges, max_sge_limit, [](auto& b, ibv_sge& sge) { describe(b, sge); });
    if constexpr (Archive::is_reader) {
        recv.num_sge = static_cast<uint32_t>(sges.size());
        std::ranges::copy(sges, recv.sge.begin());
    }
}

template <typename Archive>
void describe(Archive& a, ResponderResource& resource)
{
    a.flag("atomic", resource.atomic);
    describe(a, "first_psn", resource.first_psn);
    a.u32("num_packets", resource.num_packets, Psn::mask);
    a.u64("original", resource.original);
}

// The data that a send request of a QP carries itself. Comes before the QP.
struct InlineState {
    uint32_t qp = 0;
    uint32_t request = 0; // in the send window
    std::vector<uint8_t> data;
};

template <typename Archive>
void describe(Archive& a, InlineState& state)
{
    a.u32("qp", state.qp);
    a.u32("request", state.request, max_accepted - 1);
    a.blob("data", state.data, max_inline_limit);
}

// What a responder owes, in the order that it is sent. The stream has acknowledgements
// among the responses.
struct OwedAnswer {
    static constexpr uint8_t acknowledge = 2; // beside Response::Kind
    uint8_t kind;
    uint8_t syndrome;  // acknowledge: of any type
    Response response; // acknowledge: psn alone counts
};

// Longest list of them: earlier versions had an entry for each acknowledgement.
inline constexpr size_t max_owed_answers = 1024;

struct OwedAnswers {
    static std::vector<OwedAnswer> of(const ReceiveWindow& window)
    {
        std::vector<OwedAnswer> answers;
        auto add_acknowledge = [&](uint8_t syndrome, Psn psn) {
            Response response{};
            response.psn = psn;
            response.remaining_packets = 1;
            answers.push_back({OwedAnswer::acknowledge, syndrome, response});
        };
        if (window._duplicate_ack) {
            add_acknowledge(aeth_ack | aeth_ack_no_credits, *window._duplicate_ack);
        }
        for (size_t i = 0; i < window.num_responses(); ++i) {
            const Response& response = window.response(i);
            answers.push_back({static_cast<uint8_t>(response.kind), 0, response});
        }
        if (window._nak != ReceiveWindow::no_nak) {
            add_acknowledge(window._nak, window._expected);
        }
        return answers;
    }

    // A NAK of an earlier version that does not name the packet expected is out of date.
    static void restore(ReceiveWindow& window, const std::vector<OwedAnswer>& answers)
    {
        for (const OwedAnswer& answer : answers) {
            uint8_t type = answer.syndrome & aeth_type_mask;
            if (answer.kind != OwedAnswer::acknowledge) {
                window._responses.push_back(answer.response);
                window._responses.back().kind = static_cast<Response::Kind>(answer.kind);
            } else if (type == aeth_ack) {
                window._duplicate_ack = answer.response.psn;
            } else if (answer.response.psn == window._expected) {
                window._nak = answer.syndrome;
            }
        }
    }
};

template <typename Archive>
void describe(Archive& a, OwedAnswer& answer)
{
    Response& response = answer.response;
    a.u8("kind", answer.kind, OwedAnswer::acknowledge);
    a.flag("again", response.again);
    a.u8("syndrome", answer.syndrome);
    describe(a, "psn", response.psn);
    a.u32("remaining_packets", response.remaining_packets, Psn::mask);
    a.flag("started", response.started);
    a.u64("address", response.address);
    a.u32("rkey", response.rkey);
    a.u32("remaining", response.remaining);
    a.u64("original", response.original);
}

template <typename Archive>
void describe(Archive& a, ResponderState& resp)
{
    describe(a, "epsn", resp.window._expected);
    a.u32("msn", resp.window._msn, msn_mask);
    a.u8("message", resp.message, static_cast<uint8_t>(ResponderState::Message::write));
    a.flag("drop_message", resp.drop_message);
    a.flag("nak_sent", resp.window._nak_sent);
    a.flag("ack_pending", resp.window._ack);
    a.flag("communication_established", resp.communication_established);
    a.present("recv", resp.have_recv, [&] { describe(a, resp.recv); });
    a.u64("received", resp.received);
    a.u64("write_address", resp.write_address);
    a.u32("write_rkey", resp.write_rkey);
    a.u32("write_remaining", resp.write_remaining);
    a.list("resources", resp.window._resources, UINT8_MAX,
           [](auto& b, ResponderResource& resource) { describe(b, resource); });
    std::vector<OwedAnswer> answers = OwedAnswers::of(resp.window);
    a.list("responses", answers, max_owed_answers,
           [](auto& b, OwedAnswer& answer) { describe(b, answer); });
    if constexpr (Archive::is_reader) {
        OwedAnswers::restore(resp.window, answers);
    }
}

template <typename Archive>
void describe(Archive& a, QueuePair& qp, int64_t& timer_remaining)
{
    a.u32("id", qp.id);
    a.u32("qpn", qp.qpn, qpn_mask);
    a.record("init", [&] { describe(a, qp.init); });
    a.u8("state", qp.state, IBV_QPS_ERR);
    a.record("attr", [&] { describe(a, qp.attr); });
    a.bytes("dmac", qp.dmac);
    a.record("path", [&] { describe(a, qp.path); });
    a.u16("mtu", qp.mtu, max_mtu);
    a.u8("peer_rnr_retry", qp.peer_rnr_retry, rnr_retry_infinite);
    a.record("requester", [&] { describe(a, qp.req, timer_remaining); });
    a.record("responder", [&] { describe(a, qp.resp); });
}

} // namespace rdma::roce
