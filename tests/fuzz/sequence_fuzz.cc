// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole device through sequences that a driver and its programs could have
// made, each step right or wrong in one place: bring-up, commands, requests,
// completions, time, link, reset, and again. An interrupt may lead back into the
// device, as an MSI message to its own registers would.
#include "guest_steps.h"

namespace rdma::fuzz {
namespace {

void run(FuzzedDataProvider& data)
{
    Machine machine(1, pick_config(data));
    GuestSteps guest(data, machine);
    if (data.ConsumeIntegralInRange(0, 7) != 0) {
        machine.bring_up();
        guest.set_up_program();
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
            machine.write_bar(RDMA_BAR_UAR, uar_qp_offset, uar_qp_send | 2);
            break;
        case 4:
            machine.reset();
            break;
        default:
            break;
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
    }
    machine.on_irq = nullptr;
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
