// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the parts of the engine (requester, responder, datagrams) share.
#pragma once

#include <functional>

#include "frame_builder.h"
#include "gid_table.h"
#include "handle_table.h"
#include "memory_region.h"
#include "packet.h"
#include "queue_pair.h"
#include "statistics.h"

namespace rdma::roce {

// Where frames leave the engine, and what it must know of the port.
class Link {
public:
    // Accepts one frame. False: accepted, but send no more before
    // Engine::tx_ready().
    virtual bool send(std::span<const uint8_t> frame) = 0;
    // The port's own Ethernet address.
    virtual Mac mac() = 0;
    // Bytes of the longest IP packet of the port, 0 if not known.
    virtual uint32_t mtu() = 0;

protected:
    ~Link() = default;
};

struct Srq {
    uint32_t pd;
    ibv_srq_attr attr; // srq_limit: 0 where it is not armed
    uint32_t users = 0;
};

struct Cq {
    uint32_t users = 0;
    bool overrun = false; // a completion was lost; not all its QPs have failed yet
};

struct Context {
    Context(const Limits& device_limits, GuestMemory& guest_memory, Statistics& statistics,
            Link& network)
        : limits(device_limits), memory(guest_memory), stats(statistics), link(network),
          regions(limits.max_mr, limits.max_mr_size, memory, limits.number_seed), gids(limits.gid_tbl_len), srqs(limits.max_srq), cqs(limits.max_cq)
    {}

    Limits limits;
    GuestMemory& memory;
    Statistics& stats;
    Link& link;
    BackendClient* client = nullptr;
    std::function<QueuePair*(uint32_t qpn)> find_by_qpn; // null: no such QP
    MemoryRegions regions;
    GidTable gids;
    HandleTable<Srq> srqs;
    HandleTable<Cq> cqs;
    TimerQueue timers;
    FrameBuilder builder;
    Mac mac{};
    int64_t now = 0; // nanoseconds; set by the engine before each piece of work

    bool link_blocked = false;
    bool resting = false; // Engine::set_resting
    // Frames to our own addresses, on their way back in.
    static constexpr size_t max_loopback = 64; // frames
    GrowingRing<std::vector<uint8_t>> loopback;
    // Frames of QPs that are no more, oldest first.
    struct LastFrame {
        std::vector<uint8_t> bytes;
        Path path;
    };
    static constexpr size_t max_last_frames = 256;
    GrowingRing<LastFrame> last_frames;
    // QPs that may have something to send, each once: acknowledgements and the
    // like; and requests and READ responses, which have to wait for those.
    GrowingRing<uint32_t> answering;
    GrowingRing<uint32_t> ready;
    // CQs that have overrun and of which not all QPs have failed, each once; whether one
    // has come since the engine looked.
    std::vector<uint32_t> overrun_cqs;
    bool overrun_noted = false;
    // QPs of which fail_qp() has been told.
    std::vector<uint32_t> failing_qps;
    // Slots of the QPs' queues, of which most are empty at any time.
    static constexpr size_t max_idle_slots = 4096; // of 16 QPs whose queues are full
    SlotPool<SendWqe> wqe_slots{max_idle_slots};
    size_t accepted = 0; // send requests that all QPs hold (RequesterState::window)

    // Whether emit() may be called.
    bool can_emit() const
    {
        return !resting && !link_blocked && loopback.size() < max_loopback;
    }

    // The packet has shown that its sender may talk to one of our QPs: what VLAN it comes
    // on is that of the GID it is for, if that is not known. Our own frames tell nothing.
    void learn_vlan(const Packet& packet)
    {
        if (!gids.knows_vlan(packet.destination) && !gids.owns(packet.source)) {
            gids.learn(packet.destination, packet.vlan);
        }
    }

    // The GID that packets along the path are sent from; null: it has been deleted.
    const GidTable::Entry* source_of(const Path& path) const
    {
        return gids.find(path.source(), path.network(), path.gid_index());
    }

    // Begins a frame along path in builder (see FrameBuilder::begin).
    FrameBuilder& begin_frame(const Path& path, uint8_t opcode, uint32_t destination_qp,
                              Psn psn, bool ack_request = false, bool solicited = false)
    {
        const GidTable::Entry* source = source_of(path);
        builder.begin(path, source ? source->vlan.value_or(no_vlan) : no_vlan, opcode,
                      destination_qp, psn, ack_request, solicited);
        return builder;
    }

    // Sends the frame in builder, whose packets go along path. Last in what a QP does for a
    // packet: a network that delivers at once may have the VM stopped, and saved, within
    // send(), so that nothing of the QP may be half done then or be done afterwards.
    // Where the path's GID has been deleted, the frame is lost.
    void emit(const Path& path)
    {
        // [virtio-rdma CTL-26]
        send_frame(path, builder.finish());
    }

    // The same for a QP that is destroyed: Engine::run() sends the frame. No more than
    // max_last_frames wait; further ones are lost, as on a network.
    void emit_last(const Path& path)
    {
        if (last_frames.size() < max_last_frames) {
            auto frame = builder.finish();
            LastFrame& last = last_frames.push_back();
            last.bytes.assign(frame.begin(), frame.end());
            last.path = path;
        }
    }

    // Sends the frame along the path, to our own addresses or over the link.
    void send_frame(const Path& path, std::span<const uint8_t> frame)
    {
        if (!source_of(path)) {
            ++stats.drop_unreachable;
            return;
        }
        ++stats.tx_packets;
        stats.tx_bytes += frame.size();
        if (gids.owns(path.destination(), path.network())) {
            ++stats.loopback_packets;
            loopback.push_back().assign(frame.begin(), frame.end());
        } else if (!link.send(frame)) {
            link_blocked = true;
        }
    }

    void schedule(QueuePair& qp)
    {
        if (!qp.scheduled) {
            qp.scheduled = true;
            ready.push_back(qp.id);
        }
    }

    // The QP's responder has something to send.
    void schedule_answer(QueuePair& qp)
    {
        if (!qp.answering) {
            qp.answering = true;
            answering.push_back(qp.id);
        }
    }

    // What an idle QP does not need.
    void release_slots(QueuePair& qp) { qp.req.window.release(wqe_slots); }

    void set_timer(QueuePair& qp, int64_t deadline)
    {
        timers.set(qp.req.timer, qp.id, deadline);
    }

    void complete(const QueuePair& qp, uint32_t cq, const Completion& completion)
    {
        ++stats.completions;
        stats.completion_errors += completion.wc.status != IBV_WC_SUCCESS;
        if (!client->complete(cq, completion) && qp.state != IBV_QPS_ERR) {
            note_overrun(cq);
        }
    }

    // The CQ has lost a completion; its QPs are for Engine::run() to fail.
    void note_overrun(uint32_t id)
    {
        Cq* cq = cqs.find(id);
        if (!cq->overrun) {
            cq->overrun = true;
            overrun_cqs.push_back(id);
            overrun_noted = true;
        }
    }

    // Raises the SRQ's limit event if it is due.
    void check_srq_limit(uint32_t id)
    {
        Srq* srq = srqs.find(id);
        if (srq->attr.srq_limit > 0 && client->srq_depth(id) < srq->attr.srq_limit) {
            srq->attr.srq_limit = 0;
            client->async_event(IBV_EVENT_SRQ_LIMIT_REACHED, id);
        }
    }

    // The next receive request for the QP, into qp.resp.recv.
    bool pull_recv(QueuePair& qp)
    {
        RecvRequest& recv = qp.resp.recv;
        recv.malformed = IBV_WC_SUCCESS;
        bool pulled = qp.init.use_srq ? client->pull_srq_recv(qp.init.srq, recv)
                                      : client->pull_recv(qp.id, recv);
        if (!pulled) {
            return false;
        }
        if (qp.init.use_srq) {
            check_srq_limit(qp.init.srq);
        }
        qp.resp.have_recv = true;
        qp.resp.recv_length = 0;
        for (uint32_t i = 0; i < recv.num_sge; ++i) {
            qp.resp.recv_length += recv.sge[i].length;
        }
        return true;
    }

    // The path of an address vector, from this port. Not valid where its GID
    // index names none.
    Path path_of(const AddressVector& av, uint32_t qpn, uint32_t remote_qpn) const
    {
        const GidTable::Entry* entry = gids.find(av.attr.grh.sgid_index);
        if (!entry) {
            return {};
        }
        // Entropy for the fabric's load balancing, dynamic ports (A17.3.1.3): the
        // flow label, folded as Linux's rdma_flow_label_to_udp_sport() does, or
        // where there is none the QPs.
        const auto& grh = av.attr.grh;
        uint32_t hash = (qpn * 0x9e3779b1u) ^ (remote_qpn * 0x85ebca6bu);
        uint32_t label = grh.flow_label & flow_label_mask;
        uint32_t entropy = label ? label ^ label >> 14 : hash ^ hash >> 16;
        // [IBTA A17.3.2.1-1]
        auto port = static_cast<uint16_t>(0xc000 | (entropy & 0x3fff));
        // A16.4.3: the service level is a VLAN tag's priority.
        // [IBTA CA17-40] [IBTA CA17-42]
        return Path(entry->network, mac, av.dmac, entry->gid, grh.dgid, grh.traffic_class, label,
                    grh.hop_limit ? grh.hop_limit : default_hop_limit, port, grh.sgid_index,
                    av.attr.sl & 7);
    }

private:
    static constexpr uint8_t default_hop_limit = 64;
};

// What becomes of the answers that a QP owes its peer when it goes to the error state:
// the consumer may use its buffers for something else from then on. Only what precedes
// the NAK of a refused request is sent (9.9.3).
enum class Owed : uint8_t { is_dropped, is_sent };

// Moves the QP to the error state (10.3.1): everything in its queues completes
// with IBV_WC_WR_FLUSH_ERR, except the oldest send request where status is
// given.
void enter_error(Context& context, QueuePair& qp, ibv_wc_status status = IBV_WC_WR_FLUSH_ERR,
                 Owed owed = Owed::is_dropped);
// The oldest send request fails at this end (10.3.1.7): the error of an RC QP is the whole QP's, that
// of another type its send queue's, which goes to SQE; what follows is flushed.
void fail_sends(Context& context, QueuePair& qp, ibv_wc_status status);
// In the error state: completes what has been posted since, a queue full at most: what is left
// then waits for flush_more().
void flush_send_queue(Context& context, QueuePair& qp);
void flush_receive_queue(Context& context, QueuePair& qp);
// A part of that. False: there is nothing left, or the QP has not failed.
bool flush_more(Context& context, QueuePair& qp);

// Copies bytes [offset, offset + out.size()) of the request's data. False as MemoryRegions::gather().
[[nodiscard]] bool gather(const Context& context, const QueuePair& qp, const SendWqe& wqe,
                          uint64_t offset, std::span<std::byte> out);

// Completes the oldest WQE of the send queue, which leaves it. A successful one
// that is not signalled leaves no trace.
void complete_send(Context& context, QueuePair& qp, ibv_wc_status status);
// Completes qp.resp.recv.
void complete_recv(Context& context, QueuePair& qp, const Completion& completion);

} // namespace rdma::roce
