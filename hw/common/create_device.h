// SPDX-License-Identifier: GPL-2.0-or-later
//
// How each kind of device is put together: hw/pvrdma/pvrdma.h and its like call this.
#pragma once

#include <expected>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "device.h"
#include "guest_memory.h"
#include "rdma_device.h"
#include "runner.h"

namespace rdma {

// One kind of device, with the limits that it has here.
struct DeviceModel {
    migration::DeviceKind kind;
    Limits limits; // that the backend must serve
    std::function<std::unique_ptr<Device>(DeviceHost& host, GuestMemory& memory, Backend& backend,
                                          Statistics& stats)>
        make;
};

// The device over that backend. May throw.
RdmaDevice* new_device(OpenedBackend& backend, const DeviceModel& model, const RdmaHostOps& ops,
                       void* opaque);

// make(). Where that throws, returns null and sets *error to what it said (free() it).
RdmaDevice* create_device(char** error, const std::function<RdmaDevice*()>& make);

// What is known of the configuration of a kind of device.
template <typename Config>
struct ConfigRules {
    // Nothing, or what is wrong with it.
    std::expected<void, std::string> (*check)(const Config& config);
    // The same with no limit above the host device's. Throws std::runtime_error where that
    // cannot be.
    Config (*fit_to_host)(const Config& config, const ibv_device_attr& host);
    // What the backend must serve.
    Limits (*limits_of)(const Config& config);
};

// A Model over that backend (null: roce), with the limits of config or, where they are lower, those
// of the host's device behind it. Where that cannot be, returns null and sets *error to why (free()
// it).
template <typename Model, typename Config>
RdmaDevice* create_device(migration::DeviceKind kind, const ConfigRules<Config>& rules,
                          const Config& config, const RdmaBackendConfig* backend,
                          const RdmaHostOps& ops, void* opaque, char** error)
{
    return create_device(error, [&] {
        if (auto checked = rules.check(config); !checked) {
            throw std::runtime_error(checked.error());
        }
        auto opened = open_backend(backend);
        const ibv_device_attr* host = opened->host_attributes();
        Config fitted = host ? rules.fit_to_host(config, *host) : config;
        DeviceModel model{kind, rules.limits_of(fitted),
                          [&](DeviceHost& device_host, GuestMemory& memory, Backend& device_backend,
                              Statistics& stats) {
                              return std::make_unique<Model>(fitted, device_host, memory,
                                                             device_backend, stats);
                          }};
        return new_device(*opened, model, ops, opaque);
    });
}

} // namespace rdma
