// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management through umad. The kernel gives those of a port to
// whoever has asked for them first, its own connection manager among them.
#pragma once

#include <infiniband/umad.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "mad_port.h"
#include "mad_sender.h"

namespace rdma::verbs {

// A file of umad's on a port, with an agent there.
class UmadAgent {
public:
    // receives: messages of connection management that come to the port are its.
    // Throws std::runtime_error: what is wrong, and what to do.
    UmadAgent(const std::string& device, uint8_t port, bool receives);
    ~UmadAgent();
    UmadAgent(const UmadAgent&) = delete;
    UmadAgent& operator=(const UmadAgent&) = delete;

    int fd() const { return umad_get_fd(_port); }
    // 0 or a positive errno value: the destination is not reached (it takes up to a
    // second to find that out), EINVAL: one with the same transaction id is on its way.
    int send(const Mad& mad);
    // 0; EAGAIN: there is none; EIO: the device is gone.
    int receive(Mad& mad);

private:
    int _port = -1;
    int _agent = -1;
    std::unique_ptr<std::byte[]> _buffer; // a header of umad's and a MAD
};

class UmadPort final : public MadPort {
public:
    // Throws std::runtime_error: what is wrong, and what to do.
    UmadPort(const std::string& device, uint8_t port, MadSender::Sizes sizes = {});

    int fd() const override { return _receiver.fd(); }
    bool send(const Mad& mad) override { return _sender.send(mad); }
    bool receive(Mad& mad) override;
    bool is_gone() const override { return _gone; }
    // As send(); see MadSender.
    bool send_for(const Mad& mad, uint32_t source) { return _sender.send(mad, source); }
    void forget(uint32_t source) { _sender.forget(source); }

private:
    // The kernel locks a file while it looks up where a datagram of that file goes,
    // against poll() and read() as well: one receives, and each thread has its own.
    UmadAgent _receiver;
    MadSender _sender;
    bool _gone = false;
};

} // namespace rdma::verbs
