// SPDX-License-Identifier: GPL-2.0-or-later
#include "interface_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <span>

#include <fmt/format.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "gid.h"

namespace rdma::verbs {

namespace {

// The address within a GID, as the kernel has it.
struct Address {
    uint8_t family;
    std::span<const uint8_t> bytes;
};

Address parse(const ibv_gid& gid)
{
    if (is_v4_mapped(gid)) {
        return {AF_INET, std::span(gid.raw).last(4)};
    }
    return {AF_INET6, gid.raw};
}

struct Request {
    nlmsghdr header;
    ifaddrmsg message;
    struct {
        rtattr header;
        uint8_t bytes[16];
    } local, address;
};

// The kernel answers within the call.
int exchange(uint16_t type, uint16_t flags, uint32_t interface, const ibv_gid& gid)
{
    Address address = parse(gid);
    Request request{};
    auto put = [&](auto& attribute, uint16_t kind) {
        attribute.header = {static_cast<uint16_t>(RTA_LENGTH(address.bytes.size())), kind};
        std::ranges::copy(address.bytes, attribute.bytes);
    };
    put(request.local, IFA_LOCAL);
    // The second attribute follows the first at once.
    size_t attribute_size = RTA_SPACE(address.bytes.size());
    put(request.address, IFA_ADDRESS);
    auto* first = reinterpret_cast<std::byte*>(&request.local);
    std::memmove(first + attribute_size, &request.address, attribute_size);
    request.header.nlmsg_len =
        static_cast<uint32_t>(NLMSG_LENGTH(sizeof(ifaddrmsg)) + 2 * attribute_size);
    request.header.nlmsg_type = type;
    request.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
    request.message.ifa_family = address.family;
    request.message.ifa_prefixlen = static_cast<uint8_t>(address.bytes.size() * 8);
    request.message.ifa_flags = IFA_F_NODAD;
    request.message.ifa_index = interface;

    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) {
        return errno;
    }
    struct {
        nlmsghdr header;
        nlmsgerr error;
        std::byte rest[512];
    } answer{};
    int error = 0;
    if (send(fd, &request, request.header.nlmsg_len, 0) < 0 ||
        recv(fd, &answer, sizeof(answer), 0) < 0) {
        error = errno;
    } else {
        error = answer.header.nlmsg_type == NLMSG_ERROR ? -answer.error.error : EIO;
    }
    close(fd);
    return error;
}

} // namespace

std::string address_of(const ibv_gid& gid)
{
    Address address = parse(gid);
    char text[INET6_ADDRSTRLEN];
    return inet_ntop(address.family, address.bytes.data(), text, sizeof(text)) ? text : "?";
}

std::string interface_name(uint32_t interface)
{
    char name[IF_NAMESIZE];
    return if_indextoname(interface, name) ? name : fmt::format("interface {}", interface);
}

bool has_address(const ibv_gid& gid)
{
    ifaddrs* first = nullptr;
    if (getifaddrs(&first) != 0) {
        return false;
    }
    Address wanted = parse(gid);
    bool found = false;
    for (const ifaddrs* each = first; each && !found; each = each->ifa_next) {
        if (!each->ifa_addr || each->ifa_addr->sa_family != wanted.family) {
            continue;
        }
        const void* bytes =
            wanted.family == AF_INET
                ? static_cast<const void*>(
                      &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr)
                : &reinterpret_cast<const sockaddr_in6*>(each->ifa_addr)->sin6_addr;
        found = std::memcmp(bytes, wanted.bytes.data(), wanted.bytes.size()) == 0;
    }
    freeifaddrs(first);
    return found;
}

int add_interface_address(uint32_t interface, const ibv_gid& gid)
{
    return exchange(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, interface, gid);
}

int remove_interface_address(uint32_t interface, const ibv_gid& gid)
{
    return exchange(RTM_DELADDR, 0, interface, gid);
}

} // namespace rdma::verbs
