// SPDX-License-Identifier: GPL-2.0-or-later
#include "mad_port.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fmt/format.h>

#include "host_objects.h"

namespace rdma::verbs {

namespace {

constexpr int cm_class = 0x07; // IBTA vol. 1, 13.4.4
constexpr int cm_class_version = 2;
constexpr unsigned send_method = 3; // all messages of connection management have it
constexpr uint32_t gsi_qkey = 0x80010000;

} // namespace

MadPort::MadPort(const std::string& device, uint8_t port)
    : _buffer(std::make_unique<std::byte[]>(umad_size() + mad_size))
{
    _port = umad_open_port(device.c_str(), port);
    if (_port < 0) {
        throw std::runtime_error(
            fmt::format("cannot open port {} of RDMA device '{}' for management datagrams: {} (is "
                        "ib_umad loaded, and may QEMU open /dev/infiniband/umad*?)",
                        port, device, strerror(errno)));
    }
    long methods[16 / sizeof(long)] = {1l << send_method};
    _agent = umad_register(_port, cm_class, cm_class_version, 0, methods);
    if (_agent < 0) {
        umad_close_port(_port);
        throw std::runtime_error(
            fmt::format("port {} of RDMA device '{}' has a connection manager already: the host's "
                        "own (module ib_cm) or another VM's",
                        port, device));
    }
    set_nonblocking(fd());
}

MadPort::~MadPort()
{
    umad_unregister(_port, _agent);
    umad_close_port(_port);
}

bool MadPort::send(const Mad& mad)
{
    void* umad = _buffer.get();
    std::memset(umad, 0, umad_size());
    std::ranges::copy(mad.bytes, static_cast<std::byte*>(umad_get_mad(umad)));
    umad_set_addr(umad, 0, static_cast<int>(mad.peer_qpn), mad.sl, static_cast<int>(gsi_qkey));
    ib_mad_addr_t grh{};
    grh.grh_present = 1;
    grh.gid_index = mad.gid_index;
    grh.hop_limit = mad.hop_limit;
    grh.traffic_class = mad.traffic_class;
    grh.flow_label = mad.flow_label;
    std::ranges::copy(mad.peer.raw, grh.gid);
    umad_set_grh(umad, &grh);
    umad_set_pkey(umad, 0);
    return umad_send(_port, _agent, umad, mad_size, 0, 0) == 0;
}

bool MadPort::receive(Mad& mad)
{
    void* umad = _buffer.get();
    for (;;) {
        int length = mad_size;
        if (umad_recv(_port, umad, &length, 0) < 0) {
            return false;
        }
        // What comes back with a status is a message of ours that was not sent.
        if (umad_status(umad) != 0 || length < static_cast<int>(mad_size)) {
            continue;
        }
        const ib_mad_addr_t& from = *umad_get_mad_addr(umad);
        if (!from.grh_present) {
            continue;
        }
        mad = {};
        std::copy_n(static_cast<const std::byte*>(umad_get_mad(umad)), mad_size, mad.bytes.begin());
        std::ranges::copy(from.gid, mad.peer.raw);
        mad.gid_index = from.gid_index;
        mad.peer_qpn = be32toh(from.qpn);
        mad.flow_label = be32toh(from.flow_label);
        mad.hop_limit = from.hop_limit;
        mad.traffic_class = from.traffic_class;
        mad.sl = from.sl;
        return true;
    }
}

} // namespace rdma::verbs
