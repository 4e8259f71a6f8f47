// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a virtual RDMA device of either kind is to the C boundary
// (rdma_device.cc), and what the boundary lends it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend.h"
#include "rdma_host.h"
#include "statistics.h"
#include "stream.h"

namespace rdma {

// The host, as a device model sees it: RdmaHostOps without the network, which
// belongs to the backend.
class DeviceHost {
public:
    virtual void raise_irq(unsigned vector) = 0;
    virtual void set_intx(bool level) = 0;
    virtual RdmaNicInfo nic_info() = 0;
    virtual void poll_idle() = 0;
    virtual void poll_end() = 0;
    virtual void log(int level, std::string_view message) = 0;

protected:
    ~DeviceHost() = default;
};

class Device : public BackendClient {
public:
    virtual ~Device() = default;
    // As after power-on; also resets the backend.
    virtual void reset() = 0;
    // Something of it has failed, and may be half done: the guest is told by
    // IBV_EVENT_DEVICE_FATAL; all its objects are gone, the backend's too. It can be set up anew.
    virtual void fail() = 0;
    virtual uint32_t bar_read(unsigned bar, uint64_t offset, unsigned size) = 0;
    virtual void bar_write(unsigned bar, uint64_t offset, uint32_t value, unsigned size) = 0;
    // See rdma_device.h, whose functions of these names lead here. A kind of device that has its own control channel leaves them as they are.
    virtual int64_t command(uint64_t /*tag*/, std::span<const uint8_t> /*request*/,
                            std::span<uint8_t> /*reply*/)
    {
        return 0;
    }
    virtual size_t take_reply(uint64_t& /*tag*/, std::span<uint8_t> /*reply*/) { return 0; }
    virtual size_t take_event(unsigned /*queue*/, std::span<uint8_t> /*event*/) { return 0; }
    virtual uint64_t offered_features() const { return 0; }
    virtual void set_features(uint64_t /*features*/) {}
    virtual void set_event_queues(uint32_t /*queues*/) {}
    // The NIC's carrier has changed: port events.
    virtual void link_changed() = 0;
    virtual ObjectCounts object_counts() const = 0;
    // The VM runs (again); guest memory may be written from now on.
    virtual void start() = 0;

    // What a guest sees of the configuration, by the names of properties: must
    // be the same where a state is loaded as where it was saved.
    using Property = std::pair<std::string, uint64_t>;
    virtual std::vector<Property> guest_visible_properties() const = 0;
    // Migration (migration/stream.h): all state but the backend's; takes one
    // section of kinds 64 and up after reset() and the backend's sections; and,
    // after the last one, checks that the parts fit together.
    virtual void save(migration::StreamWriter& stream) = 0;
    virtual migration::Status load(const migration::Section& section) = 0;
    virtual migration::Status finish_load() = 0;
};

} // namespace rdma
