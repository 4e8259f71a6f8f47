// SPDX-License-Identifier: GPL-2.0-or-later
//
// The device's part of objects whose ids the backend gives out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "handle_table.h"

namespace rdma::pvrdma {

template <typename T>
class ObjectTable {
public:
    // Null where there is no such object.
    T* find(uint32_t id) const { return _table.find(id); }
    // In place of an object that has this id, if there is one.
    T& insert(uint32_t id, T&& object)
    {
        _table.erase(id);
        return *_table.insert(id, std::move(object));
    }
    void erase(uint32_t id) { _table.erase(id); }
    void clear() { _table.clear(); }
    size_t size() const { return _table.size(); }

    // fn(id, object) for each, in the order of ids.
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        _table.for_each(fn);
    }

private:
    HandleTable<T> _table{UINT32_MAX};
};

} // namespace rdma::pvrdma
