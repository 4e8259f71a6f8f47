// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's GSI QP: its datagrams leave and come through umad, for the host's own
// QP 1 belongs to its kernel.
#include <sys/epoll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include <netinet/ip.h>

#include "cm_message.h"
#include "gid.h"
#include "mux_port.h"
#include "mux_protocol.h"
#include "request_batch.h"
#include "umad_port.h"

namespace rdma::verbs {

namespace {

constexpr size_t grh_size = 40;

using Grh = std::array<std::byte, grh_size>;

uint16_t checksum_of(const iphdr& header)
{
    std::array<uint16_t, sizeof(iphdr) / 2> words;
    std::memcpy(words.data(), &header, sizeof(header));
    uint32_t sum = 0;
    for (uint16_t word : words) {
        sum += word;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~(sum + (sum >> 16)));
}

// What stands before a datagram in its buffer: a GRH or, with IPv4, that header at
// its end (IBTA, annex A17).
Grh grh_of(const Mad& mad, const ibv_gid& own)
{
    constexpr uint16_t payload = 8 + 12 + 8 + mad_size + 4; // UDP, BTH, DETH, ICRC
    Grh grh{};
    if (is_v4_mapped(own)) {
        iphdr header{};
        header.version = 4;
        header.ihl = sizeof(header) / 4;
        header.tos = mad.traffic_class;
        header.tot_len = htobe16(sizeof(header) + payload);
        header.ttl = mad.hop_limit;
        header.protocol = IPPROTO_UDP;
        std::memcpy(&header.saddr, mad.peer.raw + 12, 4);
        std::memcpy(&header.daddr, own.raw + 12, 4);
        header.check = checksum_of(header);
        std::memcpy(grh.data() + grh_size - sizeof(header), &header, sizeof(header));
    } else {
        ibv_grh header{};
        header.version_tclass_flow =
            htobe32(6u << 28 | uint32_t{mad.traffic_class} << 20 | (mad.flow_label & 0xfffff));
        header.paylen = htobe16(payload);
        header.next_hdr = IPPROTO_UDP;
        header.hop_limit = mad.hop_limit;
        header.sgid = mad.peer;
        header.dgid = own;
        static_assert(sizeof(header) == grh_size);
        std::memcpy(grh.data(), &header, sizeof(header));
    }
    return grh;
}

bool is_socket(const char* path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

// By the daemon that the property names or, where it is not given, the one that there
// is; without any, umad.
std::unique_ptr<MadPort> make_mad_port(const HostPort& port, const MuxPort::Log& log)
{
    const std::string& mux = port.cm_mux();
    if (mux == "off" || (mux.empty() && !is_socket(mux::default_socket))) {
        return std::make_unique<UmadPort>(port.device_name(), port.number());
    }
    return std::make_unique<MuxPort>(mux.empty() ? mux::default_socket : mux, port.device_name(),
                                     port.number(), log);
}

} // namespace

// Without it the guest's RDMA CM reaches nobody, and all else works.
void VerbsBackend::open_mad_port()
{
    try {
        _mads = make_mad_port(*_port, _log);
        tell_addresses();
        epoll_event event{};
        event.events = EPOLLIN;
        epoll_ctl(_epoll, EPOLL_CTL_ADD, _mads->fd(), &event);
    } catch (const std::runtime_error& error) {
        _log(RDMA_LOG_WARNING, std::string("the guest has no RDMA CM: ") + error.what());
    }
}

// The guest's addresses, or where the host has them, may have changed.
void VerbsBackend::tell_addresses()
{
    if (!_mads) {
        return;
    }
    std::vector<OwnAddress> addresses;
    for (uint32_t i = 0; i < _limits.gid_tbl_len; ++i) {
        const ibv_gid* gid = _gids.find(i);
        auto host_index = gid ? _gids.host_index(i) : std::nullopt;
        auto host_gid = host_index ? _port->gid(*host_index) : std::nullopt;
        if (host_gid) {
            addresses.push_back({static_cast<uint8_t>(i), *host_index,
                                 _port->fixed_gid().has_value(), *host_gid, *gid});
        }
    }
    _mads->set_addresses(addresses);
}

// Kernels give the GSI QP memory by its DMA region alone: an address is a GPA. fn(gpa,
// size) for each piece of the first so many bytes; false: they are not there.
template <typename Fn>
bool VerbsBackend::for_each_piece(uint32_t pd, std::span<const ibv_sge> sges, size_t size, Fn&& fn)
{
    for (const ibv_sge& sge : sges) {
        size_t n = std::min<size_t>(sge.length, size);
        auto region = _dma_regions.find(sge.lkey);
        bool is_dma = region != _dma_regions.end() && _mrs.find(region->second)->pd == pd;
        if (!is_dma || !fn(sge.addr, n)) {
            return false;
        }
        size -= n;
    }
    return size == 0;
}

bool VerbsBackend::send_mad(Qp& qp, const SendRequest& request)
{
    Mad mad;
    std::span<const ibv_sge> sges(request.sge.data(), static_cast<size_t>(request.wr.num_sge));
    std::span<std::byte> rest = mad.bytes;
    bool read = for_each_piece(qp.init.pd, sges, mad_size, [&](uint64_t gpa, size_t size) {
        bool ok = _memory.read(gpa, rest.first(size));
        rest = rest.subspan(size);
        return ok;
    });
    ibv_ah_attr av = request.av.attr;
    if (!read || !_mads || !parse_cm_message(mad.bytes) || !to_host(av)) {
        return false;
    }
    mad.peer = av.grh.dgid;
    mad.gid_index = av.grh.sgid_index;
    mad.peer_qpn = request.wr.wr.ud.remote_qpn;
    mad.flow_label = av.grh.flow_label;
    mad.hop_limit = av.grh.hop_limit;
    mad.traffic_class = av.grh.traffic_class;
    mad.sl = av.sl;
    return _mads->send(mad);
}

// A message of connection management has come for one of the guest's addresses.
void VerbsBackend::take_mad(const Mad& mad)
{
    const ibv_gid* own = _gids.find_by_host_index(mad.gid_index);
    if (!own || (_gsi->state != IBV_QPS_RTR && _gsi->state != IBV_QPS_RTS)) {
        ++(own ? _stats.drop_qp_state : _stats.drop_unknown_qp);
        return;
    }
    RecvRequest& recv = _batch->recvs[0];
    if (!_client->pull_recv(_gsi->id, recv)) {
        ++_stats.drop_no_receive;
        return;
    }
    std::array<std::byte, grh_size + mad_size> datagram;
    std::ranges::copy(grh_of(mad, *own), datagram.begin());
    std::ranges::copy(mad.bytes, datagram.begin() + grh_size);
    std::span<const std::byte> rest = datagram;
    std::span<const ibv_sge> sges(recv.sge.data(), recv.num_sge);
    bool written =
        recv.malformed == IBV_WC_SUCCESS &&
        for_each_piece(_gsi->init.pd, sges, datagram.size(), [&](uint64_t gpa, size_t size) {
            bool ok = _memory.write(gpa, rest.first(size));
            rest = rest.subspan(size);
            return ok;
        });
    Completion completion;
    completion.wc.wr_id = recv.wr_id;
    completion.wc.opcode = IBV_WC_RECV;
    completion.wc.status = written ? IBV_WC_SUCCESS : IBV_WC_LOC_PROT_ERR;
    completion.wc.byte_len = datagram.size();
    completion.wc.src_qp = mad.peer_qpn;
    completion.wc.sl = mad.sl;
    completion.wc.wc_flags = IBV_WC_GRH;
    completion.solicited = true;
    completion.network = is_v4_mapped(*own) ? NetworkType::ipv4 : NetworkType::ipv6;
    ++_stats.rx_packets;
    complete(*_gsi, _gsi->init.recv_cq, completion);
}

void VerbsBackend::take_mads(unsigned budget)
{
    Mad mad;
    for (; _mads && budget > 0 && _mads->receive(mad); --budget) {
        take_mad(mad);
    }
    _failing |= _mads && !_dead && _mads->is_gone();
}

void VerbsBackend::pump_gsi(Qp& qp)
{
    bool failed = qp.state == IBV_QPS_ERR;
    if (!failed && qp.state != IBV_QPS_RTS) {
        return;
    }
    SendRequest& request = _batch->sends[0];
    for (uint32_t i = 0; i < qp.init.cap.max_send_wr && _client->pull_send(qp.id, request); ++i) {
        bool signaled = qp.init.sq_sig_all || (request.wr.send_flags & IBV_SEND_SIGNALED);
        ibv_wc_status status = failed ? IBV_WC_WR_FLUSH_ERR : request.malformed;
        if (status == IBV_WC_SUCCESS) {
            // As on a network: what cannot be delivered is lost.
            bool sent = send_mad(qp, request);
            _stats.tx_packets += sent;
            _stats.drop_unreachable += !sent;
        }
        complete_without_host(qp, true, {request.wr.wr_id, status, IBV_WC_SEND, signaled});
    }
    RecvRequest& recv = _batch->recvs[0];
    for (uint32_t i = 0; failed && i < qp.init.cap.max_recv_wr && _client->pull_recv(qp.id, recv);
         ++i) {
        complete_without_host(qp, false, {recv.wr_id, IBV_WC_WR_FLUSH_ERR, IBV_WC_RECV, true});
    }
}

} // namespace rdma::verbs
