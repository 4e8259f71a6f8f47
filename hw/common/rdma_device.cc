// SPDX-License-Identifier: GPL-2.0-or-later
//
// The C boundary: puts a device, its memory, its backend and its executor
// together. No exception crosses it, and what a callback of the host's leads to waits
// until the device is in order again.
#include "rdma_device.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "create_device.h"
#include "device.h"
#include "device_state.h"
#include "guest_memory.h"
#include "runner.h"
#include "statistics.h"
#include "vector_set.h"

using namespace rdma;

namespace {

// A host that is gone: nothing leads to it.
constexpr RdmaHostOps no_host{
    .now = [](void*) { return int64_t{0}; },
    .set_timer = [](void*, int64_t) {},
    .send_packet = [](void*, const uint8_t*, size_t) { return false; },
    .raise_irq = [](void*, unsigned) {},
    .set_intx = [](void*, bool) {},
    .mark_dirty = [](void*, uint64_t, uint64_t) {},
    .nic_info = [](void*, RdmaNicInfo*) {},
    .poll_idle = [](void*) {},
    .poll_end = [](void*) {},
    .log = [](void*, int, const char*) {},
};

// What waits for the end of the outermost call; each takes the place of those before it.
enum class Pending { nothing, failure, reset, end };

} // namespace

struct RdmaDevice final : DeviceHost {
    RdmaDevice(OpenedBackend& backend, const DeviceModel& kind_of_device, const RdmaHostOps& host_ops,
               void* host)
        : ops(host_ops), opaque(host), kind(kind_of_device.kind),
          runner(backend.make_runner(kind_of_device.limits, {ops, opaque, memory, stats})),
          model(kind_of_device.make(*this, memory, runner->backend(), stats))
    {
        runner->set_client(*model);
    }

    void raise_irq(unsigned vector) override
    {
        if (pending < Pending::reset) {
            due_irqs.insert(vector);
        }
    }
    void set_intx(bool level) override
    {
        if (pending < Pending::reset) {
            ops.set_intx(opaque, level);
        }
    }
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

    // Nothing waits for the end of a call.
    bool is_in_order() const
    {
        return pending == Pending::nothing && due_irqs.empty() && !pending_run_state;
    }
    // What is under way does no more from now on.
    void defer(Pending what)
    {
        pending = std::max(pending, what);
        runner->halt();
        if (pending >= Pending::reset) {
            due_irqs.clear();
            memory.end_access(); // whose translation leads here
        }
        if (pending == Pending::end) {
            ops = no_host;
            memory.set_table({});
            memory.set_translation(nullptr, nullptr);
            memory.set_dirty_log(false, nullptr, nullptr);
        }
    }

    RdmaHostOps ops;
    void* opaque;
    GuestMemory memory;
    Statistics stats;
    migration::DeviceKind kind;
    std::unique_ptr<Runner> runner;
    std::unique_ptr<Device> model;
    bool busy = false; // a call is under way
    VectorSet due_irqs;
    Pending pending = Pending::nothing;
    // Whether the VM is to be stopped, and rnr_nak then, after what is pending.
    struct RunState {
        bool stopped;
        bool rnr_nak;
    };
    std::optional<RunState> pending_run_state;
};

static_assert(migration::max_stream_size == RDMA_MAX_STATE);

namespace {

StatefulDevice stateful(RdmaDevice* device)
{
    return {device->kind, device->runner->backend_name(), *device->model, device->runner->backend(),
            device->stats};
}

// False, with *error set to why, where the backend cannot move to another host.
bool is_free_to_move(RdmaDevice* device, char** error)
{
    auto obstacle = device->runner->migration_obstacle();
    if (obstacle) {
        *error = strdup(obstacle->c_str());
    }
    return !obstacle;
}

template <typename Save>
bool save(RdmaDevice* device, RdmaPutState* put, void* opaque, char** error, Save&& fill)
{
    try {
        if (!is_free_to_move(device, error)) {
            return false;
        }
        migration::StreamWriter stream(device->kind);
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
        if (with_state && device->busy) {
            throw std::runtime_error("the device is at work");
        }
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
    // [virtio-rdma MIG-5]
    if (with_state && !device->busy) {
        rdma_device_reset(device);
    }
    *error = strdup(message.c_str());
    return false;
}

// Without memory of its own: there may be none.
void report_failure(RdmaDevice* device, const std::exception& e)
{
    char message[256];
    snprintf(message, sizeof(message), "%s: %s",
             device->runner->is_stopped()
                 ? "a call of an RDMA device, which is stopped, has failed"
                 : "an RDMA device has failed, until its driver sets it up anew",
             e.what());
    device->ops.log(device->opaque, RDMA_LOG_ERROR, message);
}

// Runs fn(). Where that throws (no memory, no thread), what it was about may be half done,
// and the device fails. One that is stopped changes nothing that is saved; what is of no use
// after that is lost, as a packet is.
template <typename Fn>
void guarded(RdmaDevice* device, Fn&& fn)
{
    try {
        fn();
    } catch (const std::exception& e) {
        report_failure(device, e);
        if (!device->runner->is_stopped()) {
            device->defer(Pending::failure);
        }
    }
}

void reset_now(RdmaDevice* device)
{
    device->due_irqs.clear();
    device->model->reset();
    device->runner->reset();
}

void set_run_state(RdmaDevice* device, RdmaDevice::RunState state)
{
    if (state.stopped) {
        device->runner->stop(state.rnr_nak);
    } else if (device->runner->is_stopped()) {
        device->model->start();
        device->runner->start();
    }
}

// One call of the host. Interrupts raised in it go out at its end, when nothing
// of the device's is half done: the guest says where an MSI message is written,
// and that may be the device's own registers, or a register of the bridge that
// resets or removes the device. That may also come of a frame that is sent, in the
// middle of it: the reset, or the end, waits for the end of the outermost call, and
// what is under way leaves at once.
class Call {
public:
    explicit Call(RdmaDevice* device) : _device(device), _outer(!device->busy)
    {
        _device->busy = true;
    }
    ~Call()
    {
        if (!_outer) {
            return;
        }
        if (_device->is_in_order()) {
            _device->busy = false;
            return;
        }
        // Delivering leads to what is pending, and a failure to an interrupt. The rest
        // of what feeds itself goes on from the timer.
        unsigned left = max_irqs;
        while (settle()) {
            if (left > 0) {
                deliver(left);
            }
            if (_device->pending == Pending::nothing) {
                if (!_device->due_irqs.empty()) {
                    _device->ops.set_timer(_device->opaque, _device->ops.now(_device->opaque));
                }
                _device->busy = false;
                return;
            }
        }
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    // False: the call comes out of another one.
    bool outer() const { return _outer; }
    // Raises the interrupts that are due, left at most.
    void deliver(unsigned& left)
    {
        while (!_device->due_irqs.empty() && _device->pending == Pending::nothing && left > 0) {
            --left;
            _device->ops.raise_irq(_device->opaque, _device->due_irqs.take());
        }
    }
    // Within one call.
    static constexpr unsigned max_irqs = 16;

private:
    // Carries out what is pending. False: the device is no more.
    bool settle()
    {
        Pending pending = std::exchange(_device->pending, Pending::nothing);
        if (pending == Pending::end) {
            delete _device;
            return false;
        }
        try {
            if (pending == Pending::reset || (pending == Pending::failure && is_stopping())) {
                reset_now(_device);
            } else if (pending == Pending::failure) {
                _device->model->fail();
                _device->runner->reset();
            }
            if (auto state = std::exchange(_device->pending_run_state, std::nullopt)) {
                set_run_state(_device, *state);
            }
        } catch (const std::exception& e) {
            report_failure(_device, e);
        }
        return true;
    }
    // Guest memory is to be left alone.
    bool is_stopping() const
    {
        return _device->pending_run_state ? _device->pending_run_state->stopped
                                          : _device->runner->is_stopped();
    }

    RdmaDevice* _device;
    bool _outer;
};

// A call that does fn(call), unless the device waits for its reset or end.
template <typename Fn>
void enter(RdmaDevice* device, Fn&& fn)
{
    Call call(device);
    if (device->pending == Pending::nothing) {
        guarded(device, [&] { fn(call); });
    }
}

// The same for an access to a BAR, which is ignored where it comes out of another call.
template <typename Fn>
void access_bar(RdmaDevice* device, Fn&& fn)
{
    enter(device, [&](Call& call) {
        if (call.outer()) {
            fn();
        } else {
            ++device->stats.guest_register_errors;
        }
    });
}

} // namespace

RdmaDevice* rdma::new_device(OpenedBackend& backend, const DeviceModel& model,
                             const RdmaHostOps& ops, void* opaque)
{
    return new RdmaDevice(backend, model, ops, opaque);
}

RdmaDevice* rdma::create_device(char** error, const std::function<RdmaDevice*()>& make)
{
    try {
        return make();
    } catch (const std::exception& e) {
        *error = strdup(e.what());
        return nullptr;
    }
}

int rdma_device_event_fd(RdmaDevice* device)
{
    return device->runner->event_fd();
}

void rdma_device_events(RdmaDevice* device)
{
    enter(device, [&](Call&) { device->runner->handle_events(); });
}

void rdma_device_stop(RdmaDevice* device, bool rnr_nak)
{
    Call call(device);
    if (device->pending == Pending::nothing) {
        guarded(device, [&] { device->runner->stop(rnr_nak); });
    }
    if (device->pending != Pending::nothing) {
        device->pending_run_state = {true, rnr_nak};
        return;
    }
    // No interrupt comes from a stopped device: those that are due come now, though
    // this call be within another one.
    unsigned all = UINT_MAX;
    call.deliver(all);
}

void rdma_device_start(RdmaDevice* device)
{
    Call call(device);
    if (device->pending == Pending::nothing) {
        guarded(device, [&] { set_run_state(device, {false, false}); });
    } else {
        device->pending_run_state = {false, false};
    }
}

void rdma_device_finish_migration(RdmaDevice* device)
{
    enter(device, [&](Call&) { device->runner->finish_migration(); });
}

bool rdma_device_can_migrate(RdmaDevice* device, char** error)
{
    try {
        if (!is_free_to_move(device, error)) {
            return false;
        }
        if (device->runner->can_save_running()) {
            migration::StreamWriter measured(device->kind,
                                             migration::StreamWriter::Keep::nothing);
            save_state(stateful(device), measured);
        }
        return true;
    } catch (const std::exception& e) {
        *error = strdup(e.what()); // it takes too much
        return false;
    }
}

bool rdma_device_save(RdmaDevice* device, RdmaPutState* put, void* opaque, char** error)
{
    return save(device, put, opaque, error, save_state);
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
    if (device) {
        Call call(device);
        device->defer(Pending::end);
    }
}

void rdma_device_reset(RdmaDevice* device)
{
    Call call(device);
    device->defer(Pending::reset);
}

uint64_t rdma_device_bar_read(RdmaDevice* device, unsigned bar, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    access_bar(device, [&] { value = device->model->bar_read(bar, offset, size); });
    return value;
}

void rdma_device_bar_write(RdmaDevice* device, unsigned bar, uint64_t offset, uint64_t value,
                           unsigned size)
{
    access_bar(device, [&] {
        device->model->bar_write(bar, offset, static_cast<uint32_t>(value), size);
        device->runner->run_if_needed();
    });
}

int64_t rdma_device_command(RdmaDevice* device, uint64_t tag, const uint8_t* request, size_t size,
                            uint8_t* reply, size_t room)
{
    int64_t written = 0;
    access_bar(device, [&] {
        written = device->model->command(tag, {request, size}, {reply, room});
        device->runner->run_if_needed();
    });
    return written;
}

size_t rdma_device_take_reply(RdmaDevice* device, uint64_t* tag, uint8_t* reply)
{
    size_t size = 0;
    enter(device, [&](Call&) { size = device->model->take_reply(*tag, {reply, RDMA_MAX_REPLY}); });
    return size;
}

size_t rdma_device_take_event(RdmaDevice* device, unsigned queue, uint8_t* event)
{
    size_t size = 0;
    enter(device, [&](Call&) { size = device->model->take_event(queue, {event, RDMA_MAX_REPLY}); });
    return size;
}

uint64_t rdma_device_offered_features(RdmaDevice* device)
{
    return device->model->offered_features();
}

void rdma_device_set_features(RdmaDevice* device, uint64_t features)
{
    enter(device, [&](Call&) { device->model->set_features(features); });
}

void rdma_device_set_event_queues(RdmaDevice* device, uint32_t queues)
{
    enter(device, [&](Call&) { device->model->set_event_queues(queues); });
}

// change(memory). Where there is no memory for that, nothing of the old table is used.
template <typename Change>
static void change_memory(RdmaDevice* device, Change&& change)
{
    try {
        change(device->memory);
    } catch (const std::exception& e) {
        device->memory.set_table({});
        report_failure(device, e);
        Call call(device);
        device->defer(Pending::failure);
    }
}

void rdma_device_set_memory(RdmaDevice* device, const RdmaMemoryRegion* regions, size_t count)
{
    change_memory(device, [&](GuestMemory& memory) { memory.set_table({regions, count}); });
}

void rdma_device_set_translation(RdmaDevice* device, RdmaTranslate* translate)
{
    change_memory(device,
                  [&](GuestMemory& memory) { memory.set_translation(translate, device->opaque); });
}

void rdma_device_invalidate_translations(RdmaDevice* device)
{
    device->memory.invalidate_translations();
}

void rdma_device_set_dirty_log(RdmaDevice* device, bool on)
{
    device->memory.set_dirty_log(on, device->ops.mark_dirty, device->opaque);
}

bool rdma_device_receive(RdmaDevice* device, const uint8_t* frame, size_t size)
{
    bool consumed = false;
    enter(device, [&](Call&) { consumed = device->runner->receive({frame, size}); });
    return consumed;
}

void rdma_device_observe_sent(RdmaDevice* device, const uint8_t* frame, size_t size)
{
    enter(device, [&](Call&) {
        device->runner->observe_sent({frame, std::min<size_t>(size, RDMA_OBSERVED_BYTES)});
    });
}

void rdma_device_tx_ready(RdmaDevice* device)
{
    enter(device, [&](Call&) { device->runner->tx_ready(); });
}

void rdma_device_timer(RdmaDevice* device)
{
    enter(device, [&](Call&) { device->runner->timer(); });
}

void rdma_device_link_changed(RdmaDevice* device)
{
    enter(device, [&](Call&) {
        // While the VM is stopped, start() finds out.
        if (!device->runner->is_stopped()) {
            device->model->link_changed();
        }
    });
}

void rdma_device_statistics(RdmaDevice* device,
                            void (*visit)(void* opaque, const char* name, uint64_t value),
                            void* opaque)
{
#define X(member, name) visit(opaque, name, device->stats.member);
    RDMA_COUNTERS(X)
#undef X
    ObjectCounts objects = device->model->object_counts();
#define X(member, name) visit(opaque, name, objects.member);
    RDMA_OBJECT_COUNTS(X)
#undef X
}
