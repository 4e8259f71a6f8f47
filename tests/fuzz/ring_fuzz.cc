// SPDX-License-Identifier: GPL-2.0-or-later
//
// The rings of a program at work (SQ, RQ, SRQ, CQ, events): entries, indices and
// doorbells, with memory that changes while the device reads it.
#include "guest_steps.h"

namespace rdma::fuzz {
namespace {

void run(FuzzedDataProvider& data)
{
    Machine machine;
    machine.bring_up();
    GuestSteps guest(data, machine);
    guest.set_up_program();
    while (data.remaining_bytes() > 0) {
        switch (data.ConsumeIntegralInRange(0, 15)) {
        case 0:
            guest.ring_doorbell();
            break;
        case 1:
            guest.change_world();
            break;
        case 2:
            guest.lie_about_ring();
            break;
        case 3:
        case 4:
            guest.change_memory();
            break;
        case 5:
        case 6:
            guest.write_ring_entry();
            break;
        case 7:
            guest.post_to_srq();
            break;
        case 8:
            guest.arm_and_drain();
            break;
        case 9:
            guest.use_object();
            break;
        default:
            guest.post();
        }
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
