// SPDX-License-Identifier: GPL-2.0-or-later
#include "mux_protocol.h"

#include <algorithm>

namespace rdma::verbs::mux {

Datagram to_datagram(const Mad& mad)
{
    Datagram datagram;
    datagram.gid_index = mad.gid_index;
    datagram.sl = mad.sl;
    datagram.hop_limit = mad.hop_limit;
    datagram.traffic_class = mad.traffic_class;
    datagram.flow_label = mad.flow_label;
    datagram.peer_qpn = mad.peer_qpn;
    std::ranges::copy(mad.peer.raw, datagram.peer.begin());
    datagram.mad = mad.bytes;
    return datagram;
}

Mad to_mad(const Datagram& datagram)
{
    Mad mad;
    mad.gid_index = datagram.gid_index;
    mad.sl = datagram.sl;
    mad.hop_limit = datagram.hop_limit;
    mad.traffic_class = datagram.traffic_class;
    mad.flow_label = datagram.flow_label;
    mad.peer_qpn = datagram.peer_qpn;
    std::ranges::copy(datagram.peer, mad.peer.raw);
    mad.bytes = datagram.mad;
    return mad;
}

} // namespace rdma::verbs::mux
