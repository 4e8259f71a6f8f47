// SPDX-License-Identifier: GPL-2.0-or-later
#include "removal_watch.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace rdma::verbs {

namespace {

constexpr unsigned kernel_group = 1; // multicast: uevents as the kernel sends them
constexpr size_t max_message = 8192; // more than the kernel makes (UEVENT_BUFFER_SIZE)
constexpr unsigned max_messages = 64;

bool is_gone(const std::string& uverbs)
{
    return access(("/sys/class/infiniband_verbs/" + uverbs).c_str(), F_OK) != 0;
}

} // namespace

RemovalWatch::RemovalWatch(std::string uverbs)
    : _uverbs(std::move(uverbs)),
      _socket(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT))
{
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = kernel_group;
    if (_socket >= 0 &&
        bind(_socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
        close();
    }
}

void RemovalWatch::close()
{
    if (_socket >= 0) {
        ::close(_socket);
        _socket = -1;
    }
}

bool RemovalWatch::take()
{
    std::array<char, max_message> message;
    for (unsigned i = 0; _socket >= 0 && i < max_messages; ++i) {
        sockaddr_nl from{};
        socklen_t from_size = sizeof(from);
        ssize_t size = recvfrom(_socket, message.data(), message.size(), 0,
                                reinterpret_cast<sockaddr*>(&from), &from_size);
        if (size < 0) {
            // Too many at once: some are lost.
            return errno == ENOBUFS && is_gone(_uverbs);
        }
        // Port 0 is the kernel.
        if (from.nl_pid == 0 && is_removal({message.data(), static_cast<size_t>(size)}, _uverbs)) {
            return true;
        }
    }
    return false;
}

bool RemovalWatch::is_removal(std::string_view message, std::string_view uverbs)
{
    bool removed = false;
    bool of_verbs = false;
    bool named = false;
    while (!message.empty()) {
        std::string_view field = message.substr(0, message.find('\0'));
        message.remove_prefix(std::min(message.size(), field.size() + 1));
        removed |= field == "ACTION=remove";
        of_verbs |= field == "SUBSYSTEM=infiniband_verbs";
        named |=
            field.starts_with("DEVPATH=") && field.substr(field.find_last_of("/=") + 1) == uverbs;
    }
    return removed && of_verbs && named;
}

} // namespace rdma::verbs
