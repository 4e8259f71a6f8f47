// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two virtio RDMA devices with a connection between them, whose guests are both out to do harm:
// commands, entries, indices, doorbells, memory that changes while it is read or goes away, time,
// network, stop and reset. An interrupt may lead back into the device. At the end all that exists
// is destroyed, nothing is left, and memory that the devices have not been told of is as it was.
#include <algorithm>
#include <deque>

#include "virtio_steps.h"

namespace rdma::fuzz {
namespace {

class VirtioFuzz {
public:
    explicit VirtioFuzz(FuzzedDataProvider& data)
        : _data(data), _config(pick_virtio_config(data)),
          _is_privileged(data.ConsumeIntegralInRange(0, 3) == 0)
    {
        for (Side* side : _sides) {
            VirtioMachine& machine = side->machine;
            machine.on_send = [this, &machine](std::span<const uint8_t> frame) {
                _wire.push_back({machine.host(), {frame.begin(), frame.end()}});
            };
            side->take_at_once = data.ConsumeBool();
            machine.on_irq = [side](unsigned queue) { side->interrupt(queue); };
            machine.bring_up();
            side->guest.set_up_program(_is_privileged);
        }
        connect();
    }

    void run()
    {
        while (_data.remaining_bytes() > 0) {
            Side& side = *_sides[_data.ConsumeIntegralInRange<size_t>(0, 1)];
            switch (_data.ConsumeIntegralInRange(0, 63)) {
            case 0:
                reset(side);
                break;
            case 1:
                side.guest.stop_and_start();
                break;
            case 2:
                _losses = _data.ConsumeIntegralInRange(0u, 4u);
                break;
            default:
                side.guest.step();
            }
            deliver();
            // In between events wait, and what they are of may be destroyed.
            if (++_steps % 8 == 0) {
                side.take_pending();
            }
        }
        finish();
    }

private:
    struct Side {
        Side(uint8_t host, FuzzedDataProvider& data, const VirtioRdmaConfig& config)
            : machine(host, config), guest(data, machine)
        {
        }
        // As the host's transport does: a queue with buffers is served at once.
        void interrupt(unsigned queue)
        {
            if (take_at_once) {
                machine.take(queue);
            } else {
                pending |= 1u << queue;
            }
        }
        void take_pending()
        {
            for (unsigned queue = 0; pending != 0; ++queue, pending >>= 1) {
                if (pending & 1) {
                    machine.take(queue);
                }
            }
        }

        VirtioMachine machine;
        VirtioSteps guest;
        bool take_at_once = false;
        uint32_t pending = 0; // queues
    };

    void connect()
    {
        _first.guest.connect_first(_second.machine.host(), _second.guest.qps().front().qpn);
        _second.guest.connect_first(_first.machine.host(), _first.guest.qps().front().qpn);
    }

    void reset(Side& side)
    {
        side.machine.change_while_read({});
        side.machine.map_memory(true);
        side.pending = 0;
        side.guest.reset();
        side.guest.set_up_program(_is_privileged);
        Side& peer = &side == &_first ? _second : _first;
        side.guest.connect_first(peer.machine.host(), peer.guest.qps().front().qpn);
    }

    // What waits on the wire, and what that leads to, to a bound.
    void deliver()
    {
        for (int i = 0; i < 300 && !_wire.empty(); ++i) {
            auto [from, frame] = std::move(_wire.front());
            _wire.pop_front();
            if (_losses > 0) {
                --_losses;
                continue;
            }
            for (Side* side : _sides) {
                if (side->machine.host() == frame[5]) {
                    side->machine.receive(frame);
                }
            }
        }
    }

    void finish()
    {
        for (Side* side : _sides) {
            side->machine.set_network_full(false);
            side->machine.map_memory(true);
            side->machine.change_while_read({});
        }
        deliver();
        _wire.clear();
        for (Side* side : _sides) {
            side->machine.destroy_all();
            // Nothing that was under way comes back.
            side->machine.advance(1'000'000'000);
            side->machine.expect_nothing_left();
            side->guest.reset();
            side->machine.create_pd();
        }
    }

    FuzzedDataProvider& _data;
    const VirtioRdmaConfig _config;
    const bool _is_privileged;
    struct OnWire {
        uint8_t from;
        std::vector<uint8_t> frame;
    };
    std::deque<OnWire> _wire;
    unsigned _losses = 0; // of the next frames
    unsigned _steps = 0;
    Side _first{1, _data, _config};
    Side _second{2, _data, _config};
    Side* const _sides[2] = {&_first, &_second};
};

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::VirtioFuzz(data).run();
    return 0;
}
