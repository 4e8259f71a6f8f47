// SPDX-License-Identifier: GPL-2.0-or-later
#include "device_machine.h"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "guest_memory.h"

namespace rdma::fuzz {

void broken(const char* what)
{
    std::fprintf(stderr, "%s\n", what);
    abort(); // libFuzzer reports it
}

namespace {

// Memory that stays from one machine to the next: mapping it anew takes most
// of a short run's time.
struct Memory {
    std::unique_ptr<std::byte[]> ram, more_ram, rom;
};
constexpr size_t max_machines = 3;
std::array<Memory, max_machines> memories;

std::span<std::byte> zeroed(std::unique_ptr<std::byte[]>& memory, size_t size)
{
    if (!memory) {
        memory.reset(new std::byte[size]);
    }
    std::memset(memory.get(), 0, size);
    return {memory.get(), size};
}

} // namespace

const RdmaHostOps DeviceMachine::ops = {
    .now = [](void* opaque) { return machine(opaque)._now; },
    .set_timer = [](void* opaque, int64_t deadline) { machine(opaque)._deadline = deadline; },
    .send_packet =
        [](void* opaque, const uint8_t* frame, size_t size) {
            // Every byte is read, so that none may be uninitialised or beyond.
            unsigned sum = 0;
            for (size_t i = 0; i < size; ++i) {
                sum += frame[i];
            }
            if (size < 14 || sum == 0 || machine(opaque)._is_over) {
                broken("a frame that may not be sent");
            }
            DeviceMachine& m = machine(opaque);
            if (m.on_send) {
                m.on_send({frame, size});
            }
            return !m._full;
        },
    .raise_irq =
        [](void* opaque, unsigned vector) {
            if (vector > machine(opaque).last_vector() || machine(opaque).is_quiet()) {
                broken("an interrupt that may not be raised");
            }
            if (machine(opaque).on_irq) {
                machine(opaque).on_irq(vector);
            }
        },
    .set_intx = [](void*, bool) {},
    .mark_dirty =
        [](void* opaque, uint64_t gpa, uint64_t size) {
            if (!machine(opaque).at(gpa, size) || machine(opaque).is_quiet() ||
                !machine(opaque).may_write(gpa, size)) {
                broken("the device has written where it may not");
            }
        },
    .nic_info =
        [](void* opaque, RdmaNicInfo* info) {
            std::ranges::copy(mac_prefix, info->mac);
            info->mac[5] = machine(opaque)._host;
            info->mtu = 4500;
            info->link_up = machine(opaque)._link_up;
        },
    .poll_idle =
        [](void* opaque) {
            if (machine(opaque).on_poll_idle) {
                machine(opaque).on_poll_idle();
            }
        },
    .poll_end =
        [](void* opaque) {
            if (machine(opaque).on_poll_end) {
                machine(opaque).on_poll_end();
            }
        },
    .log =
        [](void*, int, const char* message) {
            if (std::strlen(message) > 1000) {
                broken("a message that is too long");
            }
        },
};

DeviceMachine* DeviceMachine::_working = nullptr;

DeviceMachine::Working::Working(DeviceMachine* machine)
    : _machine(machine), _before(std::exchange(_working, machine))
{
    ++_machine->_depth;
}

DeviceMachine::Working::~Working()
{
    _working = _before;
    if (--_machine->_depth == 0 && std::exchange(_machine->_is_over, false)) {
        _machine->poison_memory(false);
    }
}

DeviceMachine::DeviceMachine(uint8_t host)
    : _host(host), _ram(zeroed(memories.at(host - 1u).ram, ram_size)),
      _more_ram(zeroed(memories.at(host - 1u).more_ram, more_ram_size)),
      _rom(zeroed(memories.at(host - 1u).rom, page_size))
{
#ifdef RDMA_FUZZ
    rdma_before_guest_read = [](uint64_t gpa, uint64_t size) {
        if (_working) {
            _working->before_read(gpa, size);
        }
    };
#endif
}

void DeviceMachine::put_address(uint8_t host, std::span<uint8_t, 16> gid,
                                std::span<uint8_t, 6> mac)
{
    gid[10] = gid[11] = 0xff;
    gid[12] = 10;
    gid[15] = host;
    std::ranges::copy(mac_prefix, mac.begin());
    mac[5] = host;
}

DeviceMachine::~DeviceMachine()
{
    unplug();
    if (std::ranges::any_of(_rom, [](std::byte byte) { return byte != std::byte{0}; })) {
        broken("the device has written to ROM");
    }
}

void DeviceMachine::plug()
{
    _device_host.reset(new Host{this});
    _deadline = INT64_MAX;
    _stopped = false;
    _device = create_device(ops, _device_host.get());
    if (!_device) {
        broken("the device cannot be made");
    }
    map_memory(true);
}

void DeviceMachine::unplug()
{
    if (RdmaDevice* device = std::exchange(_device, nullptr)) {
        ++_lives;
        rdma_device_destroy(device);
    }
    _device_host.reset();
    if (_depth > 0) {
        _is_over = true;
        poison_memory(true);
    }
}

void DeviceMachine::poison_memory([[maybe_unused]] bool poisoned)
{
    for ([[maybe_unused]] std::span<std::byte> memory : {_ram, _more_ram, _rom}) {
        if (poisoned) {
            ASAN_POISON_MEMORY_REGION(memory.data(), memory.size());
        } else {
            ASAN_UNPOISON_MEMORY_REGION(memory.data(), memory.size());
        }
    }
}

void DeviceMachine::set_dirty_log(bool on)
{
    if (_device) {
        rdma_device_set_dirty_log(_device, on);
    }
}

void DeviceMachine::map_memory(bool all)
{
    const RdmaMemoryRegion regions[] = {{ram, ram_size, _ram.data(), false},
                                        {rom, page_size, _rom.data(), true},
                                        {more_ram, more_ram_size, _more_ram.data(), false}};
    if (_device) {
        rdma_device_set_memory(_device, regions, all ? 3 : 1);
    }
}

std::byte* DeviceMachine::at(uint64_t gpa, size_t size)
{
    if (gpa >= ram && gpa - ram <= ram_size && size <= ram_size - (gpa - ram)) {
        return _ram.data() + (gpa - ram);
    }
    if (gpa >= more_ram && gpa - more_ram <= more_ram_size &&
        size <= more_ram_size - (gpa - more_ram)) {
        return _more_ram.data() + (gpa - more_ram);
    }
    return nullptr;
}

void DeviceMachine::poke(uint64_t gpa, const void* bytes, size_t size)
{
    std::byte* address = at(gpa, size);
    if (address && size > 0) {
        std::memcpy(address, bytes, size);
    }
}

void DeviceMachine::peek(uint64_t gpa, void* bytes, size_t size)
{
    if (std::byte* address = at(gpa, size)) {
        std::memcpy(bytes, address, size);
    }
}

uint64_t DeviceMachine::page()
{
    uint64_t gpa = _next_page;
    _next_page += page_size;
    if (_next_page == more_ram + more_ram_size) {
        _next_page = ram;
    }
    std::memset(at(gpa, page_size), 0, page_size);
    return gpa;
}

std::vector<uint64_t> DeviceMachine::pages(size_t count)
{
    std::vector<uint64_t> list(count);
    std::ranges::generate(list, [this] { return page(); });
    return list;
}

void DeviceMachine::reset()
{
    if (_device) {
        ++_lives;
        rdma_device_reset(_device);
        _is_over = _depth > 0;
    }
}

void DeviceMachine::stop()
{
    Working working(this);
    if (_device) {
        rdma_device_stop(_device, true);
        _stopped = true;
    }
}

void DeviceMachine::start()
{
    Working working(this);
    if (_device) {
        _stopped = false;
        rdma_device_start(_device);
    }
}

std::vector<uint8_t> DeviceMachine::save()
{
    std::vector<uint8_t> state;
    auto put = [](void* opaque, const uint8_t* bytes, size_t size) {
        static_cast<std::vector<uint8_t>*>(opaque)->assign(bytes, bytes + size);
    };
    char* error = nullptr;
    if (!rdma_device_save(_device, put, &state, &error)) {
        broken(error);
    }
    return state;
}

std::string DeviceMachine::load(std::span<const uint8_t> state)
{
    char* error = nullptr;
    std::string message;
    if (!rdma_device_load(_device, state.data(), state.size(), &error)) {
        message = error;
    }
    free(error);
    return message;
}

bool DeviceMachine::cpu_runs()
{
    if (_stopped && _depth == 0) {
        start();
    }
    return _device && (!_stopped || _depth > 0);
}

void DeviceMachine::write_bar(unsigned bar, uint64_t offset, uint64_t value, unsigned size)
{
    if (cpu_runs()) {
        Working working(this);
        rdma_device_bar_write(_device, bar, offset, value, size);
    }
}

uint64_t DeviceMachine::read_bar(unsigned bar, uint64_t offset, unsigned size)
{
    if (!cpu_runs()) {
        return 0;
    }
    Working working(this);
    return rdma_device_bar_read(_device, bar, offset, size);
}

void DeviceMachine::receive(std::span<const uint8_t> frame)
{
    // A copy of its own, whose end ASan watches.
    std::unique_ptr<uint8_t[]> copy(new uint8_t[frame.size()]);
    std::ranges::copy(frame, copy.get());
    Working working(this);
    if (_device) {
        rdma_device_receive(_device, copy.get(), frame.size());
    }
}

void DeviceMachine::observe_sent(std::span<const uint8_t> frame)
{
    std::unique_ptr<uint8_t[]> copy(new uint8_t[frame.size()]);
    std::ranges::copy(frame, copy.get());
    if (_device) {
        rdma_device_observe_sent(_device, copy.get(), frame.size());
    }
}

void DeviceMachine::advance(int64_t nanoseconds)
{
    Working working(this);
    int64_t end = _now + nanoseconds;
    for (int i = 0; i < 64 && _deadline <= end && _device; ++i) {
        _now = std::max(_now, _deadline);
        _deadline = INT64_MAX;
        rdma_device_timer(_device);
    }
    _now = end;
}

void DeviceMachine::set_network_full(bool full)
{
    _full = full;
    if (!full) {
        Working working(this);
        if (_device) {
            rdma_device_tx_ready(_device);
        }
    }
}

void DeviceMachine::set_link(bool up)
{
    _link_up = up;
    Working working(this);
    if (_device) {
        rdma_device_link_changed(_device);
    }
}

void DeviceMachine::change_while_read(std::vector<Change> changes)
{
    _changes = std::move(changes);
    _reads = 0;
}

void DeviceMachine::before_read(uint64_t gpa, uint64_t size)
{
    if (is_quiet()) {
        // [virtio-rdma MIG-1]
        broken("a device that is stopped has read memory");
    }
    if (_changes.empty()) {
        return;
    }
    uint32_t read = _reads++;
    std::erase_if(_changes, [&](const Change& change) {
        if (change.after != read) {
            return false;
        }
        poke(gpa + (size > 4 ? change.offset % (size - 3) : 0), &change.value,
             sizeof(change.value));
        return true;
    });
}

} // namespace rdma::fuzz
