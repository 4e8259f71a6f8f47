// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is to be remembered of the requests a host queue holds, by small numbers
// that go into the host's wr_id. As many as the queue is deep, made at once.
#pragma once

#include <cstdint>
#include <vector>

namespace rdma::verbs {

template <typename T>
class SlotTable {
public:
    explicit SlotTable(uint32_t depth) : _slots(depth)
    {
        _free.reserve(depth);
        clear();
    }

    bool full() const { return _free.empty(); }
    uint32_t used() const { return static_cast<uint32_t>(_slots.size() - _free.size()); }
    uint32_t depth() const { return static_cast<uint32_t>(_slots.size()); }

    // There must be a free one.
    uint32_t put(const T& value)
    {
        uint32_t slot = _free.back();
        _free.pop_back();
        _slots[slot] = {value, true};
        return slot;
    }
    // False: no such request, of which the host should not have told.
    bool take(uint32_t slot, T& value)
    {
        if (slot >= _slots.size() || !_slots[slot].used) {
            return false;
        }
        value = _slots[slot].value;
        _slots[slot].used = false;
        _free.push_back(slot);
        return true;
    }
    void clear()
    {
        _free.clear();
        for (uint32_t slot = depth(); slot > 0; --slot) {
            _slots[slot - 1].used = false;
            _free.push_back(slot - 1);
        }
    }

private:
    struct Slot {
        T value{};
        bool used = false;
    };
    std::vector<Slot> _slots;
    std::vector<uint32_t> _free;
};

} // namespace rdma::verbs
