// SPDX-License-Identifier: GPL-2.0-or-later
#include "umad_port.h"

#include <infiniband/umad_types.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

#include <fmt/format.h>

#include "host_objects.h"

namespace rdma::verbs {

namespace {

constexpr int cm_class_version = 2; // IBTA vol. 1, 13.4.4
constexpr uint32_t gsi_qkey = 0x80010000;

} // namespace

UmadAgent::UmadAgent(const std::string& device, uint8_t port, bool receives)
{
    _port = umad_open_port(device.c_str(), port);
    if (_port < 0) {
        throw std::runtime_error(
            fmt::format("cannot open port {} of RDMA device '{}' for management datagrams: {} (is "
                        "ib_umad loaded, and may {} open /dev/infiniband/umad*?)",
                        port, device, strerror(errno), program_invocation_short_name));
    }
    long methods[16 / sizeof(long)] = {receives ? 1l << UMAD_METHOD_SEND : 0};
    _agent = umad_register(_port, UMAD_CLASS_CM, cm_class_version, 0, methods);
    if (_agent < 0) {
        umad_close_port(_port);
        throw std::runtime_error(fmt::format(
            "port {} of RDMA device '{}' has a connection manager already: the host's own (module "
            "ib_cm) or another VM's (several share a port through rdmacm-mux)",
            port, device));
    }
    set_nonblocking(fd());
    // The header's size is known once a port has been opened.
    _buffer = std::make_unique<std::byte[]>(umad_size() + mad_size);
}

UmadAgent::~UmadAgent()
{
    umad_unregister(_port, _agent);
    umad_close_port(_port);
}

int UmadAgent::send(const Mad& mad)
{
    void* umad = _buffer.get();
    std::memset(umad, 0, umad_size());
    std::ranges::copy(mad.bytes, static_cast<std::byte*>(umad_get_mad(umad)));
    umad_set_addr(umad, 0, static_cast<int>(mad.peer_qpn), mad.sl, static_cast<int>(gsi_qkey));
    ib_mad_addr_t grh{};
    grh.grh_present = 1;
    grh.hop_limit = mad.hop_limit;
    grh.traffic_class = mad.traffic_class;
    grh.flow_label = mad.flow_label;
    std::ranges::copy(mad.peer.raw, grh.gid);
    umad_set_grh(umad, &grh);
    // Which umad_set_grh() leaves alone.
    umad_get_mad_addr(umad)->gid_index = mad.gid_index;
    umad_set_pkey(umad, 0);
    errno = 0;
    return umad_send(_port, _agent, umad, mad_size, 0, 0) == 0 ? 0 : errno ? errno : EIO;
}

int UmadAgent::receive(Mad& mad)
{
    void* umad = _buffer.get();
    for (;;) {
        int length = mad_size;
        errno = 0;
        if (umad_recv(_port, umad, &length, 0) < 0) {
            return errno == EIO || errno == ENODEV ? EIO : EAGAIN;
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
        return 0;
    }
}

namespace {

// Two messages of one communication have the same transaction id, and umad takes the
// second only once the first has left.
constexpr int duplicate_tries = 10;
constexpr std::chrono::milliseconds duplicate_pause{1};

// An agent of its own for a thread, made when there is something to send.
MadSender::Send make_send(const std::string& device, uint8_t port)
{
    std::shared_ptr<UmadAgent> agent;
    return [=](const Mad& mad) mutable {
        try {
            if (!agent) {
                agent = std::make_shared<UmadAgent>(device, port, false);
            }
        } catch (const std::runtime_error&) {
            return false; // the device is gone, as the receiver finds out
        }
        int error = agent->send(mad);
        for (int i = 0; error == EINVAL && i < duplicate_tries; ++i) {
            std::this_thread::sleep_for(duplicate_pause);
            error = agent->send(mad);
        }
        return error == 0;
    };
}

} // namespace

UmadPort::UmadPort(const std::string& device, uint8_t port, MadSender::Sizes sizes)
    : _receiver(device, port, true),
      _sender([device, port] { return make_send(device, port); }, sizes)
{
}

bool UmadPort::receive(Mad& mad)
{
    int error = _receiver.receive(mad);
    _gone |= error == EIO;
    return error == 0;
}

} // namespace rdma::verbs
