// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is to be remembered of the requests a host queue holds, by small numbers
// that go into the host's wr_id. As many as the queue is deep, made at once.
#pragma once

#include <algorithm>
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

    // There must be a free one.
    uint32_t put(const T& value)
    {
        uint32_t slot = _free.back();
        _free.pop_back();
        _slots[slot] = {value, true, _next++};
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
    // fn(slot, value) of all there are, in the order they were put.
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        std::vector<uint32_t> used;
        for (uint32_t slot = 0; slot < _slots.size(); ++slot) {
            if (_slots[slot].used) {
                used.push_back(slot);
            }
        }
        std::ranges::sort(used, {}, [this](uint32_t slot) { return _slots[slot].order; });
        for (uint32_t slot : used) {
            fn(slot, _slots[slot].value);
        }
    }
    // All there are, in that order.
    std::vector<T> take_all()
    {
        std::vector<T> values;
        for_each([&](uint32_t, const T& value) { values.push_back(value); });
        clear();
        return values;
    }
    void clear()
    {
        _free.clear();
        for (auto slot = static_cast<uint32_t>(_slots.size()); slot > 0; --slot) {
            _slots[slot - 1].used = false;
            _free.push_back(slot - 1);
        }
    }

private:
    struct Slot {
        T value{};
        bool used = false;
        uint64_t order = 0;
    };
    std::vector<Slot> _slots;
    std::vector<uint32_t> _free;
    uint64_t _next = 0;
};

} // namespace rdma::verbs
