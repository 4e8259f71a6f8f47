// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole device through sequences that a driver and its programs could have
// made, each step right or wrong in one place: bring-up, commands, requests,
// completions, time, link, reset, and again. An interrupt may lead back into the
// device, as an MSI message to its own registers would; so may a frame that it sends, which
// a network delivers at once to another card, whose interrupt resets, unplugs or stops.
#include "guest_steps.h"

namespace rdma::fuzz {
namespace {

// What a frame, or an interrupt, may lead to beside accesses to the device's own BARs.
enum class Event { none, reset, unplug, stop, stop_and_start, reset_and_stop, stop_and_unplug, time,
                   full, answer, kMaxValue = answer };

void happen(Event event, Machine& machine)
{
    switch (event) {
    case Event::none:
        break;
    case Event::reset:
        machine.reset();
        break;
    case Event::unplug:
        machine.unplug();
        break;
    case Event::stop:
        machine.stop();
        break;
    case Event::stop_and_start:
        machine.stop();
        machine.start();
        break;
    case Event::reset_and_stop:
        machine.reset();
        machine.stop();
        break;
    case Event::stop_and_unplug:
        machine.stop();
        machine.unplug();
        break;
    case Event::time:
        machine.advance(1'000'000'000);
        break;
    case Event::full:
        machine.set_network_full(true);
        machine.set_network_full(false);
        break;
    case Event::answer:
        break; // see run()
    }
}

void run(FuzzedDataProvider& data)
{
    Machine machine(1, pick_config(data));
    GuestSteps guest(data, machine);
    // On the network; otherwise the two QPs of the program talk to each other.
    std::optional<uint8_t> peer_host;
    if (data.ConsumeBool()) {
        peer_host = 2;
    }
    if (data.ConsumeIntegralInRange(0, 7) != 0) {
        machine.bring_up();
        guest.set_up_program(peer_host);
    }
    int on_interrupt = data.ConsumeIntegralInRange(0, 7);
    machine.on_irq = [&](unsigned) {
        switch (on_interrupt) {
        case 1:
            machine.write_register(reg_ctl, ctl_reset);
            break;
        case 2:
            machine.write_register(reg_request, 0);
            break;
        case 3:
            machine.write_bar(PVRDMA_BAR_UAR, uar_qp_offset, uar_qp_send | 2);
            break;
        case 4:
            machine.reset();
            break;
        case 5:
            machine.unplug();
            break;
        case 6:
            machine.stop();
            break;
        default:
            break;
        }
    };
    auto event = data.ConsumeEnum<Event>();
    auto period = data.ConsumeIntegralInRange<unsigned>(1, 8);
    unsigned sent = 0;
    machine.on_send = [&](std::span<const uint8_t> frame) {
        if (++sent % period != 0) {
            return;
        }
        if (event == Event::answer) {
            machine.receive(frame);
        } else {
            happen(event, machine);
        }
    };
    while (data.remaining_bytes() > 0) {
        switch (data.ConsumeIntegralInRange(0, 23)) {
        case 0:
            guest.access_bar();
            break;
        case 1:
            guest.ring_doorbell();
            break;
        case 2:
            guest.write_memory();
            break;
        case 3:
            guest.change_memory();
            break;
        case 4:
            guest.lie_about_ring();
            break;
        case 5:
        case 6:
            guest.change_world();
            break;
        case 7:
            guest.reset();
            break;
        case 8:
        case 9:
            guest.arm_and_drain();
            break;
        case 10:
            guest.ask();
            break;
        case 11:
        case 12:
        case 13:
            guest.create();
            break;
        case 14:
        case 15:
            guest.use_object();
            break;
        case 16:
            guest.post_to_srq();
            break;
        default:
            guest.post();
        }
        if (!machine.is_plugged()) {
            guest.plug_again(peer_host);
        }
    }
    machine.on_irq = nullptr;
    machine.on_send = nullptr;
    if (!machine.is_plugged()) {
        machine.plug();
    }
    guest.expect_recovery();
}

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::run(data);
    return 0;
}
