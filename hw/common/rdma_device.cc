// SPDX-License-Identifier: GPL-2.0-or-later
//
// The C boundary: puts a device, its memory, its backend and its executor
// together. No exception crosses it.
#include "rdma_device.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "device.h"
#include "engine.h"
#include "executor.h"
#include "guest_memory.h"
#include "pvrdma_device.h"
#include "statistics.h"

using namespace rdma;

struct RdmaDevice final : DeviceHost {
    RdmaDevice(const PvrdmaConfig& config, const RdmaHostOps& host_ops, void* host)
        : ops(host_ops), opaque(host), executor(ops, opaque, stats),
          engine(limits_of(config), memory, stats, executor),
          pvrdma(config, *this, memory, engine, stats)
    {
        engine.set_client(pvrdma);
        executor.attach(engine);
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
    Executor executor;
    roce::Engine engine;
    PvrdmaDevice pvrdma;
    bool busy = false;         // a call is under way
    uint32_t due_irqs = 0;     // a bit for each vector
    bool* destroyed = nullptr; // set when the device ends while it delivers interrupts
};

namespace {

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

} // namespace

RdmaDevice* pvrdma_device_create(const PvrdmaConfig* config, const RdmaHostOps* ops, void* opaque,
                                 char** error)
{
    auto fail = [error](const std::string& message) {
        *error = strdup(message.c_str());
        return nullptr;
    };
    try {
        if (auto checked = check_config(*config); !checked) {
            return fail(checked.error());
        }
        return new RdmaDevice(*config, *ops, opaque);
    } catch (const std::exception& e) {
        return fail(e.what());
    }
}

void rdma_device_destroy(RdmaDevice* device)
{
    delete device;
}

void rdma_device_reset(RdmaDevice* device)
{
    device->due_irqs = 0;
    device->pvrdma.reset();
    device->executor.reset();
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
    device->executor.run_if_needed();
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
    return device->executor.receive({frame, size});
}

void rdma_device_tx_ready(RdmaDevice* device)
{
    Call call(device);
    device->executor.tx_ready();
}

void rdma_device_timer(RdmaDevice* device)
{
    Call call(device);
    device->executor.timer();
}

void rdma_device_link_changed(RdmaDevice* device)
{
    Call call(device);
    device->pvrdma.link_changed();
}

void rdma_device_statistics(RdmaDevice* device,
                            void (*visit)(void* opaque, const char* name, uint64_t value),
                            void* opaque)
{
#define X(member, name) visit(opaque, name, device->stats.member);
    RDMA_COUNTERS(X)
#undef X
}
