// SPDX-License-Identifier: GPL-2.0-or-later
//
// The device's part of objects whose ids the backend gives out: a lookup is an
// index, memory is in proportion to the highest id in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace rdma::pvrdma {

template <typename T>
class ObjectTable {
public:
    // Null where there is no such object.
    T* find(uint32_t id) const { return id < _slots.size() ? _slots[id].get() : nullptr; }

    T& insert(uint32_t id, T&& object)
    {
        if (id >= _slots.size()) {
            _slots.resize(size_t{id} + 1);
        }
        _size += !_slots[id];
        _slots[id] = std::make_unique<T>(std::move(object));
        return *_slots[id];
    }
    void erase(uint32_t id)
    {
        _slots[id].reset();
        --_size;
        while (!_slots.empty() && !_slots.back()) {
            _slots.pop_back();
        }
    }
    void clear()
    {
        _slots.clear();
        _size = 0;
    }
    size_t size() const { return _size; }

    // fn(id, object) for each, in the order of ids.
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        for (size_t id = 0; id < _slots.size(); ++id) {
            if (_slots[id]) {
                fn(static_cast<uint32_t>(id), *_slots[id]);
            }
        }
    }

private:
    std::vector<std::unique_ptr<T>> _slots;
    size_t _size = 0;
};

} // namespace rdma::pvrdma
