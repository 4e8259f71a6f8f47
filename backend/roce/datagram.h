// SPDX-License-Identifier: GPL-2.0-or-later
//
// UD queue pairs and the GSI QP (IBTA vol. 1, 9.8.3): a message is a packet.
#pragma once

#include "requester.h"

namespace rdma::roce {

class Datagram {
public:
    Datagram(Context& context, Requester& requester) : _ctx(context), _requester(requester) {}

    // Sends the next datagram. False: there is none.
    bool transmit(QueuePair& qp);
    void handle(QueuePair& qp, const Packet& packet);

private:
    void note_connection(std::span<const std::byte> mad);
    // What a datagram may have: what the port takes, and where its MTU is not known and a
    // device leaves that to its guest, all that the standard allows.
    ibv_mtu largest_datagram() const;
    // The frame of a request, in the context's builder, and where it goes.
    bool build(QueuePair& qp, const SendWqe& wqe, Path& path, ibv_wc_status& status);

    Context& _ctx;
    Requester& _requester;
};

} // namespace rdma::roce
