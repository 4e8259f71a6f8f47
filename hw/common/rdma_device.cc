// SPDX-License-Identifier: GPL-2.0-or-later
//
// The C boundary: puts a device, its memory, its backend and its executor
// together. No exception crosses it.
#include "rdma_device.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "device.h"
#include "device_state.h"
#include "guest_memory.h"
#include "pvrdma_device.h"
#include "runner.h"
#include "statistics.h"
#include "verbs_runner.h"

using namespace rdma;

struct RdmaDevice final : DeviceHost {
    using MakeRunner = std::function<std::unique_ptr<Runner>(RdmaDevice&)>;

    RdmaDevice(const PvrdmaConfig& config, const RdmaHostOps& host_ops, void* host,
               const MakeRunner& make_runner)
        : ops(host_ops), opaque(host), runner(make_runner(*this)),
          pvrdma(config, *this, memory, runner->backend(), stats)
    {
        runner->set_client(pvrdma);
    }

    ~RdmaDevice()
    {
        if (destroyed) {
            *destroyed = true;
        }
    }

    void raise_irq(unsigned vector) override { due_irqs |= 1u << vector; }
    void set_intx(bool level) override { ops.set_intx(opaque, level); }
    RdmaNicInfo nic_info() override
    {
        RdmaNicInfo info{};
        ops.nic_info(opaque, &info);
        return info;
    }
    void poll_idle() override { ops.poll_idle(opaque); }
    void poll_end() override { ops.poll_end(opaque); }
    void log(int level, std::string_view message) override
    {
        ops.log(opaque, level, std::string(message).c_str());
    }

    const RdmaHostOps ops;
    void* opaque;
    GuestMemory memory;
    Statistics stats;
    std::unique_ptr<Runner> runner;
    PvrdmaDevice pvrdma;
    bool busy = false;         // a call is under way
    uint32_t due_irqs = 0;     // a bit for each vector
    bool* destroyed = nullptr; // set when the device ends while it delivers interrupts
};

namespace {

StatefulDevice stateful(RdmaDevice* device)
{
    return {migration::DeviceKind::pvrdma, device->runner->backend_name(), device->pvrdma,
            device->runner->backend(), device->stats};
}

template <typename Save>
bool save(RdmaDevice* device, RdmaPutState* put, void* opaque, char** error, Save&& fill)
{
    try {
        migration::StreamWriter stream(migration::DeviceKind::pvrdma);
        fill(stateful(device), stream);
        auto bytes = stream.finish();
        put(opaque, bytes.data(), bytes.size());
        return true;
    } catch (const std::exception& e) {
        *error = strdup(e.what()); // no memory for the state
        return false;
    }
}

bool load(RdmaDevice* device, std::span<const uint8_t> state, bool with_state, char** error)
{
    std::string message;
    try {
        if (with_state) {
            rdma_device_reset(device);
        }
        auto loaded = load_state(stateful(device), state, with_state);
        if (loaded) {
            return true;
        }
        message = loaded.error();
    } catch (const std::exception& e) {
        message = e.what(); // no memory for what the state asks for
    }
    if (with_state) {
        rdma_device_reset(device);
    }
    *error = strdup(message.c_str());
    return false;
}

// One call of the host. Interrupts raised in it go out at its end, when nothing
// of the device's is half done: the guest says where an MSI message is written,
// and that may be the device's own registers, or a register of the bridge that
// resets or removes the device.
class Call {
public:
    explicit Call(RdmaDevice* device) : _device(device), _outer(!device->busy)
    {
        _device->busy = true;
    }
    ~Call()
    {
        if (_outer && deliver()) {
            _device->busy = false;
        }
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    // False: the call comes out of another one.
    bool outer() const { return _outer; }

private:
    // False: the device is no more.
    bool deliver()
    {
        bool destroyed = false;
        _device->destroyed = &destroyed;
        while (_device->due_irqs != 0) {
            auto vector = static_cast<unsigned>(std::countr_zero(_device->due_irqs));
            _device->due_irqs &= _device->due_irqs - 1;
            _device->ops.raise_irq(_device->opaque, vector);
            if (destroyed) {
                return false;
            }
        }
        _device->destroyed = nullptr;
        return true;
    }

    RdmaDevice* _device;
    bool _outer;
};

// make() with a good configuration; null, with *error set, where that fails.
template <typename Make>
RdmaDevice* create(const PvrdmaConfig& config, char** error, Make&& make)
{
    std::string message;
    try {
        if (auto checked = check_config(config); checked) {
            return make();
        } else {
            message = checked.error();
        }
    } catch (const std::exception& e) {
        message = e.what();
    }
    *error = strdup(message.c_str());
    return nullptr;
}

} // namespace

RdmaDevice* pvrdma_device_create(const PvrdmaConfig* config, const RdmaHostOps* ops, void* opaque,
                                 char** error)
{
    return create(*config, error, [&] {
        return new RdmaDevice(*config, *ops, opaque, [&](RdmaDevice& device) {
            return make_roce_runner(limits_of(*config), device.ops, opaque, device.memory,
                                    device.stats);
        });
    });
}

RdmaDevice* pvrdma_device_create_verbs(const PvrdmaConfig* config, const RdmaHostPortConfig* port,
                                       const RdmaHostOps* ops, void* opaque, char** error)
{
    return create(*config, error, [&] {
        auto host_port = open_host_port(*port);
        PvrdmaConfig fitted = fit_to_host(*config, host_attributes(*host_port));
        return new RdmaDevice(fitted, *ops, opaque, [&](RdmaDevice& device) {
            return make_verbs_runner(host_port, limits_of(fitted), device.memory, device.stats,
                                     device);
        });
    });
}

int rdma_device_event_fd(RdmaDevice* device)
{
    return device->runner->event_fd();
}

void rdma_device_events(RdmaDevice* device)
{
    Call call(device);
    device->runner->handle_events();
}

void rdma_device_stop(RdmaDevice* device, bool rnr_nak)
{
    Call call(device);
    device->runner->stop(rnr_nak);
}

void rdma_device_start(RdmaDevice* device)
{
    Call call(device);
    if (device->runner->is_stopped()) {
        device->runner->start();
        device->pvrdma.start();
    }
}

void rdma_device_finish_migration(RdmaDevice* device)
{
    Call call(device);
    device->runner->finish_migration();
}

bool rdma_device_can_migrate(RdmaDevice* device, char** error)
{
    auto obstacle = device->runner->migration_obstacle();
    if (obstacle) {
        *error = strdup(obstacle->c_str());
    }
    return !obstacle;
}

bool rdma_device_save(RdmaDevice* device, RdmaPutState* put, void* opaque, char** error)
{
    return rdma_device_can_migrate(device, error) &&
           save(device, put, opaque, error, save_state);
}

bool rdma_device_save_config(RdmaDevice* device, RdmaPutState* put, void* opaque, char** error)
{
    return save(device, put, opaque, error, save_config);
}

bool rdma_device_load(RdmaDevice* device, const uint8_t* state, size_t size, char** error)
{
    return load(device, {state, size}, true, error);
}

bool rdma_device_check_config(RdmaDevice* device, const uint8_t* state, size_t size, char** error)
{
    return load(device, {state, size}, false, error);
}

void rdma_device_destroy(RdmaDevice* device)
{
    delete device;
}

void rdma_device_reset(RdmaDevice* device)
{
    device->due_irqs = 0;
    device->pvrdma.reset();
    device->runner->reset();
}

uint64_t rdma_device_bar_read(RdmaDevice* device, unsigned bar, uint64_t offset, unsigned size)
{
    Call call(device);
    if (!call.outer()) {
        ++device->stats.guest_register_errors;
        return 0;
    }
    return device->pvrdma.bar_read(bar, offset, size);
}

void rdma_device_bar_write(RdmaDevice* device, unsigned bar, uint64_t offset, uint64_t value,
                           unsigned size)
{
    Call call(device);
    if (!call.outer()) {
        ++device->stats.guest_register_errors;
        return;
    }
    device->pvrdma.bar_write(bar, offset, static_cast<uint32_t>(value), size);
    device->runner->run_if_needed();
}

void rdma_device_set_memory(RdmaDevice* device, const RdmaMemoryRegion* regions, size_t count)
{
    device->memory.set_table({regions, count});
}

void rdma_device_set_dirty_log(RdmaDevice* device, bool on)
{
    device->memory.set_dirty_log(on, device->ops.mark_dirty, device->opaque);
}

bool rdma_device_receive(RdmaDevice* device, const uint8_t* frame, size_t size)
{
    Call call(device);
    return device->runner->receive({frame, size});
}

void rdma_device_observe_sent(RdmaDevice* device, const uint8_t* frame, size_t size)
{
    device->runner->observe_sent({frame, std::min<size_t>(size, RDMA_OBSERVED_BYTES)});
}

void rdma_device_tx_ready(RdmaDevice* device)
{
    Call call(device);
    device->runner->tx_ready();
}

void rdma_device_timer(RdmaDevice* device)
{
    Call call(device);
    device->runner->timer();
}

void rdma_device_link_changed(RdmaDevice* device)
{
    Call call(device);
    // While the VM is stopped, start() finds out.
    if (!device->runner->is_stopped()) {
        device->pvrdma.link_changed();
    }
}

void rdma_device_statistics(RdmaDevice* device,
                            void (*visit)(void* opaque, const char* name, uint64_t value),
                            void* opaque)
{
#define X(member, name) visit(opaque, name, device->stats.member);
    RDMA_COUNTERS(X)
#undef X
    ObjectCounts objects = device->pvrdma.object_counts();
#define X(member, name) visit(opaque, name, objects.member);
    RDMA_OBJECT_COUNTS(X)
#undef X
}
