// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whether one of the host's RDMA devices is being removed, as the kernel's uevents
// tell. A driver that can take a device from its users ends it by an asynchronous
// event; one that cannot (rxe) has the removal wait until they have closed it.
#pragma once

#include <string>
#include <string_view>

namespace rdma::verbs {

class RemovalWatch {
public:
    // uverbs: the name of the device's descriptor, "uverbs0".
    explicit RemovalWatch(std::string uverbs);
    ~RemovalWatch() { close(); }
    RemovalWatch(const RemovalWatch&) = delete;
    RemovalWatch& operator=(const RemovalWatch&) = delete;

    // Polls readable when the kernel has told something; -1: it does not tell us.
    int fd() const { return _socket; }
    void close();
    // Takes what it has told, a bounded amount. True: the device is being removed.
    bool take();

    // message: fields that end with a null byte, "remove@/devices/..." the first.
    static bool is_removal(std::string_view message, std::string_view uverbs);

private:
    std::string _uverbs;
    int _socket = -1;
};

} // namespace rdma::verbs
