// SPDX-License-Identifier: GPL-2.0-or-later
//
// Interrupt cause and mask registers over three ways to interrupt: MSI-X and
// MSI, a message each time, and INTx, a level that follows the causes that are
// not masked.
#pragma once

#include "device.h"
#include "pvrdma_abi.h"

namespace rdma::pvrdma {

class Interrupts {
public:
    explicit Interrupts(DeviceHost& host) : _host(host) {}

    void raise(Vector vector)
    {
        uint32_t bit = 1u << vector;
        _cause |= bit;
        if (_mask & bit) {
            _held |= bit;
        } else {
            _host.raise_irq(vector);
        }
        update_level();
    }

    // Returns causes and clears what it returns. Linux's handler for INTx and
    // MSI takes a command's response only where that is the sole cause, so a
    // response is shown alone, and the rest with the next read.
    uint32_t read_cause()
    {
        uint32_t response = _cause & (1u << vector_response);
        uint32_t shown = response ? response : _cause;
        _cause &= ~shown;
        _held &= ~shown;
        update_level();
        return shown;
    }

    uint32_t mask() const { return _mask; }

    // Causes, those held back by the mask, and the mask.
    struct State {
        uint32_t cause;
        uint32_t held;
        uint32_t mask;
    };
    State state() const { return {_cause, _held, _mask}; }
    // The pin's level has been restored by the host.
    void restore(const State& state)
    {
        _cause = state.cause;
        _held = state.held;
        _mask = state.mask;
    }

    // Messages that were held back by the mask go out.
    void set_mask(uint32_t mask)
    {
        _mask = mask;
        uint32_t due = _held & ~mask;
        _held &= mask;
        for (unsigned vector = vector_response; vector <= vector_cq; ++vector) {
            if (due & (1u << vector)) {
                _host.raise_irq(vector);
            }
        }
        update_level();
    }

    void reset()
    {
        _cause = 0;
        _held = 0;
        _mask = ~0u;
        update_level();
    }

private:
    void update_level() { _host.set_intx((_cause & ~_mask) != 0); }

    DeviceHost& _host;
    uint32_t _cause = 0;
    uint32_t _held = 0; // causes raised while masked
    uint32_t _mask = ~0u;
};

} // namespace rdma::pvrdma
