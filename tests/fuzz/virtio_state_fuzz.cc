// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a migration may bring to a virtio RDMA device: the state of a device at work, changed in a
// few places or made up. A device that has taken it is then used as ever, by a guest that is not
// right either; a reset leaves nothing of it.
#include <string>

#include "state_changes.h"
#include "stream.h"
#include "virtio_steps.h"

namespace rdma::fuzz {
namespace {

void run(FuzzedDataProvider& data)
{
    VirtioMachine machine(1, pick_virtio_config(data));
    VirtioSteps guest(data, machine);
    machine.bring_up();
    guest.set_up_program(data.ConsumeBool());
    guest.connect_first(1, guest.qps().front().qpn);
    machine.set_network_full(data.ConsumeBool());
    for (int i = data.ConsumeIntegralInRange(0, 12); i > 0; --i) {
        guest.step();
    }
    machine.change_while_read({});
    machine.stop();
    auto state = machine.save();
    int changes = change_state_in_places(data, state);
    if (changes > 0) {
        machine.distrust_account();
    }
    std::string refused = machine.load(state);
    if (!refused.empty() && changes == 0) {
        broken(refused.c_str()); // what a device saves it takes
    }
    if (!refused.empty()) {
        // [virtio-rdma MIG-5]
        machine.expect_nothing_left();
    }
    machine.on_irq = [&](unsigned queue) { machine.take(queue); };
    machine.start();
    while (data.remaining_bytes() > 0) {
        if (data.ConsumeIntegralInRange(0, 15) == 0) {
            guest.stop_and_start();
        } else {
            guest.step();
        }
    }
    machine.change_while_read({});
    machine.map_memory(true);
    guest.reset();
    machine.create_pd();
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
