// SPDX-License-Identifier: GPL-2.0-or-later
#include "datagram.h"

#include <span>

#include "connection_message.h"

namespace rdma::roce {

namespace {

// A remote Q_Key with this bit stands for the QP's own (10.2.5).
constexpr uint32_t qkey_of_qp = 0x80000000;

} // namespace

bool Datagram::transmit(QueuePair& qp)
{
    if (!qp.can_send() || (qp.req.window.empty() && !_requester.accept(qp))) {
        return false;
    }
    ibv_wc_status status = IBV_WC_SUCCESS;
    Path path;
    bool built = build(qp, qp.req.window.front(), path, status);
    if (status != IBV_WC_SUCCESS) {
        fail_sends(_ctx, qp, status);
        return false;
    }
    if (built) {
        // [IBTA 9.8.3-2]
        complete_send(_ctx, qp, IBV_WC_SUCCESS);
        _ctx.emit(path);
    }
    return built;
}

ibv_mtu Datagram::largest_datagram() const
{
    uint32_t port_mtu = _ctx.link.mtu();
    return port_mtu == 0 && _ctx.limits.any_path_mtu ? IBV_MTU_4096 : active_mtu(port_mtu);
}

bool Datagram::build(QueuePair& qp, const SendWqe& wqe, Path& path, ibv_wc_status& status)
{
    status = wqe.status;
    if (status != IBV_WC_SUCCESS) {
        return false;
    }
    bool imm = wqe.opcode == IBV_WR_SEND_WITH_IMM;
    // [IBTA 9.8.3-6]
    if (wqe.opcode != IBV_WR_SEND && !imm) {
        status = IBV_WC_LOC_QP_OP_ERR;
        return false;
    }
    // 9.8.3: one packet, as long as the port's MTU allows.
    // [IBTA 9.8.3-1]
    if (wqe.length > least_mtu && wqe.length > mtu_bytes(largest_datagram())) {
        status = IBV_WC_LOC_LEN_ERR;
        return false;
    }
    path = _ctx.path_of(wqe.av, qp.qpn, wqe.remote_qpn);
    // [virtio-rdma CTL-26]
    if (!path.valid()) {
        status = IBV_WC_LOC_QP_OP_ERR;
        return false;
    }
    auto opcode = static_cast<uint8_t>(transport_ud | (imm ? op_send_only_imm : op_send_only));
    FrameBuilder& frame = _ctx.begin_frame(path, opcode, wqe.remote_qpn & qpn_mask, qp.req.window.next(),
                                           // [IBTA 9.2-2]
                                           false, wqe.send_flags & IBV_SEND_SOLICITED);
    // [virtio-rdma REQ-20]
    uint32_t qkey = wqe.remote_qkey & qkey_of_qp ? qp.attr.qkey : wqe.remote_qkey;
    // [IBTA 9.3.2-1]
    frame.header(Deth{qkey, 0, qp.qpn});
    if (imm) {
        ImmDt header;
        std::memcpy(header.bytes.data(), &wqe.immediate, sizeof(header));
        frame.header(header);
    }
    auto payload = frame.payload(wqe.length);
    if (!gather(_ctx, qp, wqe, 0, payload)) {
        status = IBV_WC_LOC_PROT_ERR;
        return false;
    }
    if (qp.init.gsi) {
        note_connection(payload);
    }
    // [IBTA 9.8.3-5]
    qp.req.window.take_psn();
    return true;
}

// A message of the guest's connection manager leaves.
void Datagram::note_connection(std::span<const std::byte> mad)
{
    auto retry = rnr_retry_asked_for(
        {reinterpret_cast<const uint8_t*>(mad.data()), mad.size()});
    QueuePair* connected = retry ? _ctx.find_by_qpn(retry->qpn) : nullptr;
    if (connected) {
        connected->peer_rnr_retry = retry->count;
        connected->knows_peer_rnr_retry = true;
    }
}

void Datagram::handle(QueuePair& qp, const Packet& packet)
{
    ResponderState& resp = qp.resp;
    // [IBTA 9.6.1-2]
    if (!qp.can_receive()) {
        ++_ctx.stats.drop_qp_state;
        return;
    }
    // [IBTA 9.6.1-6] [IBTA 9.6.1-7]
    // [virtio-rdma REQ-21]
    if (packet.qkey != (qp.init.gsi ? gsi_qkey : qp.attr.qkey)) {
        ++_ctx.stats.drop_qkey;
        return;
    }
    _ctx.learn_vlan(packet);
    if (!resp.have_recv && !_ctx.pull_recv(qp)) {
        // [IBTA 9.8.3-3]
        ++_ctx.stats.drop_no_receive;
        return;
    }
    Completion completion;
    completion.wc.opcode = IBV_WC_RECV;
    completion.solicited = packet.solicited;
    uint64_t size = grh_size + packet.payload.size();
    std::span<const ibv_sge> sges(resp.recv.sge.data(), resp.recv.num_sge);
    if (resp.recv.malformed != IBV_WC_SUCCESS) {
        completion.wc.status = resp.recv.malformed;
    } else if (size > resp.recv_length) {
        // [IBTA 9.8.3.2.2-1]
        // 9.8.3.2.2: dropped; the receive request stays for the next one.
        ++_ctx.stats.drop_length;
        return;
    } else if (!_ctx.regions.scatter(sges, qp.init.pd, 0, std::as_bytes(packet.grh)) ||
               !_ctx.regions.scatter(sges, qp.init.pd, grh_size,
                                     std::as_bytes(packet.payload))) {
        completion.wc.status = IBV_WC_LOC_PROT_ERR;
    }
    if (completion.wc.status != IBV_WC_SUCCESS) {
        complete_recv(_ctx, qp, completion);
        enter_error(_ctx, qp);
        return;
    }
    completion.wc.byte_len = static_cast<uint32_t>(size);
    // [IBTA 9.8.3-4]
    completion.wc.src_qp = packet.source_qp;
    completion.wc.wc_flags = IBV_WC_GRH;
    if (packet.operation() == op_send_only_imm) {
        completion.wc.imm_data = packet.immediate;
        completion.wc.wc_flags |= IBV_WC_WITH_IMM;
    }
    // [IBTA CA17-43]
    completion.network = packet.network;
    completion.smac = packet.source_mac;
    if (packet.vlan != no_vlan) {
        completion.vlan = packet.vlan;
        completion.wc.sl = packet.priority;
    }
    complete_recv(_ctx, qp, completion);
}

} // namespace rdma::roce
