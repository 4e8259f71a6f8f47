// SPDX-License-Identifier: GPL-2.0-or-later
//
// A double-ended queue that keeps its memory: it doubles when full and then
// never allocates again. Elements are reused in place, so that what they own
// (a vector's capacity) is kept too.
//
// Where many rings exist and few are in use at a time, they share a SlotPool:
// a ring takes slots from it with its first element and gives them back when it
// is empty, so that an idle ring costs nothing, and a busy one allocates nothing
// either.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace rdma {

// Slots that no ring uses just now, in arrays of a power of two.
template <typename T>
class SlotPool {
public:
    // Keeps at most so many slots; what is given back beyond that is freed.
    explicit SlotPool(size_t max_kept) : _max_kept(max_kept) {}

    std::vector<T> take(size_t slots)
    {
        auto& arrays = arrays_of(slots);
        if (arrays.empty()) {
            return std::vector<T>(slots);
        }
        std::vector<T> array = std::move(arrays.back());
        arrays.pop_back();
        _kept -= slots;
        return array;
    }
    void give(std::vector<T>&& array)
    {
        if (!array.empty() && _kept + array.size() <= _max_kept) {
            _kept += array.size();
            arrays_of(array.size()).push_back(std::move(array));
        } else {
            array = {};
        }
    }
    size_t kept() const { return _kept; }

private:
    std::vector<std::vector<T>>& arrays_of(size_t slots)
    {
        return _arrays[static_cast<size_t>(std::bit_width(slots))];
    }

    size_t _max_kept;
    size_t _kept = 0;
    // By the bits of their size, of which any number of slots has a place, none included.
    std::array<std::vector<std::vector<T>>, std::numeric_limits<size_t>::digits + 1> _arrays;
};

template <typename T>
class GrowingRing {
public:
    size_t size() const { return _size; }
    bool empty() const { return _size == 0; }

    T& operator[](size_t i) { return _slots[(_head + i) & (_slots.size() - 1)]; }
    const T& operator[](size_t i) const { return _slots[(_head + i) & (_slots.size() - 1)]; }
    T& front() { return (*this)[0]; }
    T& back() { return (*this)[_size - 1]; }

    // One more element at the back, with whatever an earlier one left in it.
    T& push_back()
    {
        if (_size == _slots.size()) {
            resize(std::vector<T>(next_size()));
        }
        return extend();
    }
    void push_back(const T& value) { push_back() = value; }
    // The same with slots of the pool, where more are needed.
    T& push_back(SlotPool<T>& pool)
    {
        if (_size == _slots.size()) {
            pool.give(resize(pool.take(next_size())));
        }
        return extend();
    }
    // Room for so many elements: until there are more, push_back() allocates nothing.
    void reserve(size_t elements)
    {
        if (elements > _slots.size()) {
            resize(std::vector<T>(std::bit_ceil(elements)));
        }
    }
    // Gives the slots back to the pool if the ring is empty.
    void release(SlotPool<T>& pool)
    {
        if (_size == 0 && !_slots.empty()) {
            _first_size = static_cast<uint32_t>(std::bit_ceil(_most));
            _most = 0;
            _head = 0;
            pool.give(std::exchange(_slots, {}));
        }
    }

    void pop_front()
    {
        _head = (_head + 1) & (_slots.size() - 1);
        --_size;
    }
    // Takes every element of this value out; the others keep their order.
    void remove(const T& value)
    {
        size_t kept = 0;
        for (size_t i = 0; i < _size; ++i) {
            if (!((*this)[i] == value)) {
                std::swap((*this)[kept++], (*this)[i]);
            }
        }
        _size = kept;
    }
    void truncate(size_t size) { _size = size; }
    void clear() { _size = 0; }

private:
    static constexpr uint32_t least_size = 4;

    T& extend()
    {
        ++_size;
        _most = std::max(_most, static_cast<uint32_t>(_size));
        return back();
    }
    // After a release, as many at once as were in use before.
    size_t next_size() const
    {
        return _slots.empty() ? std::max(_first_size, least_size) : _slots.size() * 2;
    }
    // Moves to these slots; returns the former ones.
    std::vector<T> resize(std::vector<T> slots)
    {
        for (size_t i = 0; i < _size; ++i) {
            std::swap(slots[i], (*this)[i]);
        }
        _head = 0;
        return std::exchange(_slots, std::move(slots));
    }

    std::vector<T> _slots; // a power of two, or none
    size_t _head = 0;
    size_t _size = 0;
    uint32_t _most = 0;       // elements at a time since the last release
    uint32_t _first_size = 0; // slots to begin with
};

} // namespace rdma
