// SPDX-License-Identifier: GPL-2.0-or-later
//
// The TCP connection beside the RDMA one: both sides exchange what they must
// know of each other, and wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

namespace verify {

class Control {
public:
    // server empty: waits for a client on port. Otherwise connects to it.
    Control(const std::string& server, uint16_t port);
    ~Control();
    Control(const Control&) = delete;
    Control& operator=(const Control&) = delete;

    // Sends ours, returns theirs. Throws if the peer is gone.
    template <typename T>
    T exchange(const T& ours)
    {
        send(ours);
        return receive<T>();
    }
    template <typename T>
    void send(const T& ours)
    {
        static_assert(std::is_trivially_copyable_v<T>);
        write(std::as_bytes(std::span(&ours, 1)));
    }
    template <typename T>
    T receive()
    {
        T theirs;
        read(std::as_writable_bytes(std::span(&theirs, 1)));
        return theirs;
    }
    // Until the peer is here as well.
    void barrier() { exchange(uint8_t{0}); }
    // Whether receive() would find something (the peer's end included).
    bool readable() const;

private:
    void write(std::span<const std::byte> data);
    void read(std::span<std::byte> data);

    int _socket = -1;
};

} // namespace verify
