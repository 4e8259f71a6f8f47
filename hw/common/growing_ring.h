// SPDX-License-Identifier: GPL-2.0-or-later
//
// A double-ended queue that keeps its memory: it doubles when full and then
// never allocates again. Elements are reused in place, so that what they own
// (a vector's capacity) is kept too.
#pragma once

#include <cstddef>
#include <vector>

namespace rdma {

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
            grow();
        }
        ++_size;
        return back();
    }
    void push_back(const T& value) { push_back() = value; }

    void pop_front()
    {
        _head = (_head + 1) & (_slots.size() - 1);
        --_size;
    }
    void truncate(size_t size) { _size = size; }
    void clear() { _size = 0; }

private:
    void grow()
    {
        std::vector<T> slots(_slots.empty() ? 4 : _slots.size() * 2);
        for (size_t i = 0; i < _size; ++i) {
            slots[i] = std::move((*this)[i]);
        }
        _slots = std::move(slots);
        _head = 0;
    }

    std::vector<T> _slots; // a power of two, or none
    size_t _head = 0;
    size_t _size = 0;
};

} // namespace rdma
