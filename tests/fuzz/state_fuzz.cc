// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a migration may bring: the state of a device at work, changed in a few
// places or made up. A device that has taken it is then used as ever, by a guest
// and a network that are not right either.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "guest_steps.h"
#include "state_changes.h"
#include "stream.h"

namespace rdma::fuzz {
namespace {

void use(FuzzedDataProvider& data, Machine& machine, GuestSteps& guest)
{
    switch (data.ConsumeIntegralInRange(0, 9)) {
    case 0:
        guest.use_object();
        break;
    case 1:
        guest.create();
        break;
    case 2:
        guest.arm_and_drain();
        break;
    case 3:
        guest.ring_doorbell();
        break;
    case 4:
        guest.change_world();
        break;
    case 5:
        machine.advance(data.ConsumeIntegralInRange<int64_t>(0, 10'000'000'000));
        break;
    case 6:
        machine.stop();
        machine.start();
        break;
    default:
        guest.post();
    }
}

void run(FuzzedDataProvider& data)
{
    Machine machine;
    GuestSteps guest(data, machine);
    machine.bring_up();
    guest.set_up_program();
    machine.set_network_full(data.ConsumeBool());
    for (int i = data.ConsumeIntegralInRange(0, 12); i > 0; --i) {
        guest.post();
    }
    machine.stop();
    auto state = machine.save();
    int changes = change_state_in_places(data, state);
    std::string refused = machine.load(state);
    if (!refused.empty() && changes == 0) {
        fprintf(stderr, "its own state: %s\n", refused.c_str());
        abort(); // what a device saves it takes
    }
    machine.start();
    while (data.remaining_bytes() > 0) {
        use(data, machine, guest);
    }
    guest.expect_recovery();
}

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    rdma::migration::fuzz_any_crc = true;
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::run(data);
    return 0;
}
