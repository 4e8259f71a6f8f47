// SPDX-License-Identifier: GPL-2.0-or-later
#include "host_port.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <stdexcept>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "gid.h"

namespace rdma::verbs {

namespace {

// Most entries of a port's GID table that are looked at.
constexpr size_t max_gids = 1024;

class DeviceList {
public:
    DeviceList() : _list(ibv_get_device_list(&_count)) {}
    ~DeviceList()
    {
        if (_list) {
            ibv_free_device_list(_list);
        }
    }
    DeviceList(const DeviceList&) = delete;
    DeviceList& operator=(const DeviceList&) = delete;

    std::span<ibv_device* const> devices() const
    {
        return {_list, _list ? static_cast<size_t>(_count) : 0};
    }
    ibv_device* find(std::string_view name) const
    {
        auto found = std::ranges::find(devices(), name, [](ibv_device* device) {
            return std::string_view(ibv_get_device_name(device));
        });
        return found == devices().end() ? nullptr : *found;
    }
    // "rxe0, rxe1", for messages.
    std::string names() const
    {
        std::vector<std::string> names;
        for (ibv_device* device : devices()) {
            names.emplace_back(ibv_get_device_name(device));
        }
        if (names.empty()) {
            return "this host has none (for one in software: rdma link add rxe0 type rxe netdev "
                   "INTERFACE)";
        }
        return fmt::format("this host has {}", fmt::join(names, ", "));
    }

private:
    int _count = 0;
    ibv_device** _list;
};

[[noreturn]] void fail(const std::string& message)
{
    throw std::runtime_error(message);
}

AddressPrefixes allowed_addresses(const RdmaHostPortConfig& config)
{
    const char* text = config.gid_allow ? config.gid_allow : "";
    auto parsed = AddressPrefixes::parse(text);
    if (!parsed) {
        fail(fmt::format("property 'gid-allow' is '{}': {} (a list such as "
                         "192.0.2.7+2001:db8::/64)",
                         text, parsed.error()));
    }
    // Whatever a guest has bound would be the host's own address on its network.
    if (config.add_addresses && parsed->empty()) {
        fail("property 'gid-policy' is add: 'gid-allow' must say which addresses the guest may "
             "have QEMU put on the host's interface (such as gid-allow=192.0.2.7+2001:db8::/64)");
    }
    return *parsed;
}

ibv_context* open_device(const char* name)
{
    DeviceList list;
    if (!name || !*name) {
        fail(fmt::format("'backend' is verbs: 'ibdev' must name an RDMA device: {}", list.names()));
    }
    ibv_device* device = list.find(name);
    if (!device) {
        fail(fmt::format("property 'ibdev' is '{}': there is no such RDMA device: {}", name,
                         list.names()));
    }
    ibv_context* context = ibv_open_device(device);
    if (!context) {
        int error = errno;
        fail(fmt::format("cannot open RDMA device '{}': {}{}", name, strerror(error),
                         error == EACCES || error == EPERM
                             ? fmt::format(" (QEMU must be allowed to open /dev/infiniband/{})",
                                           device->dev_name)
                             : std::string()));
    }
    return context;
}

// What the engine's MRs can be used for must be possible with these, too.
bool has_full_paging(const ibv_odp_caps& caps, bool atomics)
{
    constexpr uint32_t datagram = IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_RECV;
    constexpr uint32_t reliable =
        datagram | IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ | IBV_ODP_SUPPORT_SRQ_RECV;
    uint32_t needed = reliable | (atomics ? IBV_ODP_SUPPORT_ATOMIC : 0);
    return (caps.general_caps & IBV_ODP_SUPPORT) &&
           (caps.per_transport_caps.rc_odp_caps & needed) == needed &&
           (caps.per_transport_caps.ud_odp_caps & datagram) == datagram;
}

} // namespace

HostPort::HostPort(const RdmaHostPortConfig& config)
    : _allowed(allowed_addresses(config)), _device(config.ibdev ? config.ibdev : ""), _context(open_device(config.ibdev), ibv_close_device),
      _adds_addresses(config.add_addresses),
      // With a GID of the host's in place of the guest's, devices cannot be told apart.
      _peer_port(config.gid_index < 0 ? config.peer_port : uint16_t{0}),
      _loses_on_migrate(config.lose_on_migrate), _cm_mux(config.cm_mux ? config.cm_mux : "")
{
    if (int error = ibv_query_device(context(), &_attributes)) {
        fail(fmt::format("RDMA device '{}' does not answer: {}", _device, strerror(error)));
    }
    set_nonblocking(context()->async_fd);
    check_port(config.ibport);
    choose_paging(config);
    if (config.gid_index >= 0) {
        auto index = static_cast<uint32_t>(config.gid_index);
        auto table = gid_table();
        if (std::ranges::find(table, index, &ibv_gid_entry::gid_index) == table.end()) {
            std::vector<uint32_t> indices;
            std::ranges::transform(table, std::back_inserter(indices), &ibv_gid_entry::gid_index);
            fail(fmt::format("property 'gid-index' is {}: port {} of RDMA device '{}' has no such "
                             "GID, but those of index {}",
                             index, _number, _device, fmt::join(indices, ", ")));
        }
        _fixed_gid = index;
    }
}

void HostPort::check_port(uint32_t number)
{
    if (number < 1 || number > _attributes.phys_port_cnt) {
        fail(fmt::format("property 'ibport' is {}: RDMA device '{}' has ports 1 to {}", number,
                         _device, _attributes.phys_port_cnt));
    }
    _number = static_cast<uint8_t>(number);
    auto port = query();
    if (!port) {
        fail(fmt::format("port {} of RDMA device '{}' does not answer", number, _device));
    }
    if (port->link_layer != IBV_LINK_LAYER_ETHERNET) {
        fail(fmt::format("port {} of RDMA device '{}' is not on Ethernet: a RoCE device is needed",
                         number, _device));
    }
}

void HostPort::choose_paging(const RdmaHostPortConfig& config)
{
    ibv_device_attr_ex extended{};
    bool known = ibv_query_device_ex(context(), nullptr, &extended) == 0;
    bool any = known && (extended.odp_caps.general_caps & IBV_ODP_SUPPORT);
    switch (config.odp) {
    case RDMA_ODP_ON:
        if (!any) {
            fail(fmt::format("property 'odp' is on: RDMA device '{}' has no on-demand paging; with "
                             "odp=auto or off, the memory of regions is pinned",
                             _device));
        }
        _on_demand_paging = true;
        break;
    case RDMA_ODP_AUTO:
        _on_demand_paging =
            known && has_full_paging(extended.odp_caps, _attributes.atomic_cap != IBV_ATOMIC_NONE);
        break;
    default:
        break;
    }
}

std::optional<ibv_port_attr> HostPort::query() const
{
    ibv_port_attr attr{};
    if (!_context || ibv_query_port(context(), _number, &attr) != 0) {
        return std::nullopt;
    }
    return attr;
}

std::vector<ibv_gid_entry> HostPort::gid_table() const
{
    if (!_context) {
        return {};
    }
    std::vector<ibv_gid_entry> table(max_gids);
    ssize_t count = ibv_query_gid_table(context(), table.data(), table.size(), 0);
    table.resize(count > 0 ? static_cast<size_t>(count) : 0);
    std::erase_if(table, [this](const ibv_gid_entry& e) { return e.port_num != _number; });
    return table;
}

std::optional<uint32_t> HostPort::find_gid(const ibv_gid& gid, uint32_t type) const
{
    uint32_t wanted = type == 1 ? IBV_GID_TYPE_ROCE_V1 : IBV_GID_TYPE_ROCE_V2;
    for (const ibv_gid_entry& entry : gid_table()) {
        if (entry.gid_type == wanted && same_gid(entry.gid, gid)) {
            return entry.gid_index;
        }
    }
    return std::nullopt;
}

std::optional<ibv_gid> HostPort::gid(uint32_t index) const
{
    ibv_gid gid{};
    if (!_context || ibv_query_gid(context(), _number, static_cast<int>(index), &gid) != 0) {
        return std::nullopt;
    }
    return gid;
}

uint32_t HostPort::interface_index() const
{
    for (const ibv_gid_entry& entry : gid_table()) {
        if (entry.ndev_ifindex != 0) {
            return entry.ndev_ifindex;
        }
    }
    return 0;
}

} // namespace rdma::verbs
