// SPDX-License-Identifier: GPL-2.0-or-later
//
// Objects named by small integers: the lowest free id is handed out, memory
// is in proportion to the objects that exist, and a lookup is an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace rdma {

template <typename T>
class HandleTable {
public:
    // Ids run from first to limit - 1.
    explicit HandleTable(uint32_t limit, uint32_t first = 0) : _first(first), _limit(limit) {}

    // The new object, made from args, and its id; null where the table is full.
    template <typename... Args>
    std::pair<T*, uint32_t> emplace(Args&&... args)
    {
        uint32_t id;
        if (!_free.empty()) {
            id = *_free.begin();
        } else if (_first + _slots.size() < _limit) {
            id = _first + static_cast<uint32_t>(_slots.size());
        } else {
            return {nullptr, 0};
        }
        auto object = std::make_unique<T>(std::forward<Args>(args)...);
        if (_free.empty()) {
            _slots.emplace_back();
        } else {
            _free.erase(_free.begin());
        }
        T* raw = object.get();
        _slots[id - _first] = std::move(object);
        ++_size;
        return {raw, id};
    }

    // An object with an id of its own, as saved before. Null where the id is
    // out of range or in use.
    T* insert(uint32_t id, T&& object)
    {
        uint32_t index = id - _first;
        if (id < _first || id >= _limit || find(id)) {
            return nullptr;
        }
        while (_slots.size() <= index) {
            _free.insert(_free.end(), _first + static_cast<uint32_t>(_slots.size()));
            _slots.emplace_back();
        }
        _free.erase(id);
        _slots[index] = std::make_unique<T>(std::move(object));
        ++_size;
        return _slots[index].get();
    }

    // Null where there is no such object.
    T* find(uint32_t id) const
    {
        // An id below _first wraps to a large index.
        uint32_t index = id - _first;
        return index < _slots.size() ? _slots[index].get() : nullptr;
    }

    bool erase(uint32_t id)
    {
        if (!find(id)) {
            return false;
        }
        _slots[id - _first].reset();
        _free.insert(id);
        --_size;
        // Give back the free end of the table.
        while (!_slots.empty() && !_slots.back()) {
            _free.erase(_first + static_cast<uint32_t>(_slots.size()) - 1);
            _slots.pop_back();
        }
        return true;
    }

    void clear()
    {
        _slots.clear();
        _free.clear();
        _size = 0;
    }

    size_t size() const { return _size; }
    // One past the highest id in use.
    uint32_t end() const { return _first + static_cast<uint32_t>(_slots.size()); }

    // fn(id, object) for each, in the order of ids.
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        for (size_t i = 0; i < _slots.size(); ++i) {
            if (_slots[i]) {
                fn(_first + static_cast<uint32_t>(i), *_slots[i]);
            }
        }
    }

private:
    uint32_t _first;
    uint32_t _limit;
    size_t _size = 0;
    std::vector<std::unique_ptr<T>> _slots;
    std::set<uint32_t> _free; // ids below the end of _slots without an object
};

} // namespace rdma
