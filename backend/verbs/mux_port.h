// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages of connection management through the daemon rdmacm-mux. It may be missing,
// end and come back at any time: until it is there datagrams are lost, as on a network.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "mad_port.h"

namespace rdma::verbs {

class MuxPort final : public MadPort {
public:
    using Log = std::function<void(int level, std::string_view message)>;

    // path: the daemon's socket; device, port: the host's. Tries to connect at once, and
    // tells where that fails; then every retry. Throws std::runtime_error where there
    // are no descriptors.
    MuxPort(std::string path, std::string device, uint8_t port, Log log,
            std::chrono::milliseconds retry = std::chrono::seconds(1));
    ~MuxPort() override;
    MuxPort(const MuxPort&) = delete;
    MuxPort& operator=(const MuxPort&) = delete;

    int fd() const override { return _epoll; }
    bool send(const Mad& mad) override;
    // Does all that fd() tells of.
    bool receive(Mad& mad) override;
    void set_addresses(const std::vector<OwnAddress>& addresses) override;

private:
    enum class Told : uint8_t { nothing, gone, back };

    void connect();
    void disconnect(const std::string& why, bool refused = false);
    void tell_gone(const std::string& why, bool refused);
    bool write(const void* message, size_t size);
    template <typename T>
    bool write(const T& message)
    {
        return write(&message, sizeof(message));
    }
    bool take(std::span<const std::byte> message, Mad& mad);
    void take_refused(uint8_t slot, int error);
    void offer_addresses();
    void take_timer();
    void set_timer();

    const std::string _path;
    const std::string _device;
    const uint8_t _port;
    Log _log;
    const std::chrono::milliseconds _retry;
    int _epoll = -1;
    int _timer = -1;
    int _socket = -1;
    bool _welcome = false;
    Told _told = Told::nothing;
    std::string _why; // it is gone, as it was told
    struct Address {
        OwnAddress address;
        bool offered = false;
        bool told = false; // that it was refused
    };
    std::map<uint8_t, Address> _addresses; // by slot
};

} // namespace rdma::verbs
