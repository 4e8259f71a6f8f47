// SPDX-License-Identifier: GPL-2.0-or-later
//
// Registers, the shared region and the command channel: what a guest can do
// before a single request is posted, with memory that changes while the device
// reads it, or goes away.
#include "guest_steps.h"

namespace rdma::fuzz {
namespace {

void run(FuzzedDataProvider& data)
{
    Machine machine(1, pick_config(data));
    GuestSteps guest(data, machine);
    if (data.ConsumeBool()) {
        machine.bring_up();
    }
    while (data.remaining_bytes() > 0) {
        switch (data.ConsumeIntegralInRange(0, 15)) {
        case 0:
            guest.access_bar();
            break;
        case 1:
            guest.write_shared_region();
            break;
        case 2:
            guest.change_world();
            break;
        case 3:
            guest.write_memory();
            break;
        case 4:
        case 5:
            guest.change_memory();
            break;
        case 6:
            guest.reset();
            break;
        case 7:
        case 8:
            guest.ask();
            break;
        case 9:
        case 10:
        case 11:
            guest.use_object();
            break;
        default:
            guest.create();
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
