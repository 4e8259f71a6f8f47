// SPDX-License-Identifier: GPL-2.0-or-later
//
// Objects named by small integers: the lowest free id is handed out, memory
// is in proportion to the objects that exist and, with 8 bytes each, to the highest id in
// use, and a lookup is an index.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
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
        uint32_t index = lowest_free();
        if (index >= _limit - _first) {
            return {nullptr, 0};
        }
        auto object = std::make_unique<T>(std::forward<Args>(args)...);
        return {put(index, std::move(object)), _first + index};
    }

    // An object with an id of its own, as saved before. Null where the id is
    // out of range or in use.
    T* insert(uint32_t id, T&& object)
    {
        if (id < _first || id >= _limit || find(id)) {
            return nullptr;
        }
        return put(id - _first, std::make_unique<T>(std::move(object)));
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
        uint32_t index = id - _first;
        _slots[index].reset();
        _used[index / bits] &= ~(uint64_t{1} << index % bits);
        _first_free = std::min<size_t>(_first_free, index / bits);
        --_size;
        // Give back the free end of the table.
        while (!_slots.empty() && !_slots.back()) {
            _slots.pop_back();
        }
        _used.resize((_slots.size() + bits - 1) / bits);
        return true;
    }

    void clear()
    {
        _slots.clear();
        _used.clear();
        _first_free = 0;
        _size = 0;
    }

    size_t size() const { return _size; }

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
    static constexpr uint32_t bits = 64; // of a word of _used

    uint32_t lowest_free()
    {
        while (_first_free < _used.size() && _used[_first_free] == ~uint64_t{0}) {
            ++_first_free;
        }
        auto base = static_cast<uint32_t>(_first_free) * bits;
        return _first_free == _used.size()
                   ? base
                   : base + static_cast<uint32_t>(std::countr_one(_used[_first_free]));
    }

    T* put(uint32_t index, std::unique_ptr<T>&& object)
    {
        if (_used.size() <= index / bits) {
            _used.resize(index / bits + 1);
        }
        if (_slots.size() <= index) {
            _slots.resize(index + 1);
        }
        _slots[index] = std::move(object);
        _used[index / bits] |= uint64_t{1} << index % bits;
        ++_size;
        return _slots[index].get();
    }

    uint32_t _first;
    uint32_t _limit;
    size_t _size = 0;
    std::vector<std::unique_ptr<T>> _slots; // by id - _first
    std::vector<uint64_t> _used;            // a bit for each slot: it has an object
    size_t _first_free = 0;                 // no word of _used before this one has a free bit
};

} // namespace rdma
