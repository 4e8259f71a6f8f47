// SPDX-License-Identifier: GPL-2.0-or-later
#include "machine_steps.h"

#include <utility>

namespace rdma::fuzz {

void MachineSteps::change_world()
{
    switch (_data.ConsumeIntegralInRange(0, 5)) {
    case 0:
        _machine.set_link(_data.ConsumeBool());
        break;
    case 1:
        _machine.set_network_full(_data.ConsumeBool());
        break;
    case 2:
        _machine.map_memory(_data.ConsumeBool());
        break;
    case 3:
        _machine.set_dirty_log(_data.ConsumeBool());
        break;
    default:
        _machine.advance(_data.ConsumeIntegralInRange<int64_t>(0, 20'000'000));
    }
}

void MachineSteps::change_memory()
{
    std::vector<DeviceMachine::Change> changes(_data.ConsumeIntegralInRange<size_t>(1, 8));
    for (auto& change : changes) {
        change = {_data.ConsumeIntegralInRange(0u, 40u), _data.ConsumeIntegral<uint16_t>(),
                  value()};
    }
    _machine.change_while_read(std::move(changes));
}

uint32_t MachineSteps::value()
{
    switch (_data.ConsumeIntegralInRange(0, 3)) {
    case 0:
        return _data.ConsumeIntegral<uint8_t>();
    case 1:
        return 1u << _data.ConsumeIntegralInRange(0, 31) | _data.ConsumeIntegral<uint8_t>();
    case 2:
        return ~uint32_t{_data.ConsumeIntegral<uint8_t>()};
    default:
        return _data.ConsumeIntegral<uint32_t>();
    }
}

uint32_t MachineSteps::one_of(const std::vector<uint32_t>& known)
{
    if (known.empty() || _data.ConsumeIntegralInRange(0, 7) == 0) {
        return value();
    }
    return known[_data.ConsumeIntegralInRange<size_t>(0, known.size() - 1)];
}

} // namespace rdma::fuzz
