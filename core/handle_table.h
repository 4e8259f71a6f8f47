// SPDX-License-Identifier: GPL-2.0-or-later
//
// Objects named by small integers: memory is in proportion to the objects that
// exist, and a lookup takes two indices.
//
// The lowest free id is handed out; or, where rotate() says so, one after the other, so
// that an id is not used again before all the others have been.
#pragma once

#include <algorithm>
#include <array>
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
    explicit HandleTable(uint32_t limit, uint32_t first = 0)
        : _first(first), _limit(limit), _next(first)
    {}

    // From now on ids are handed out in turn, from next on, which is one of the table's.
    void rotate(uint32_t next)
    {
        _rotates = true;
        _next = next;
    }
    // The id that comes next, if it is free.
    uint32_t next() const { return _next; }
    bool is_id(uint32_t id) const { return id >= _first && id < _limit; }

    // The new object, made from args, and its id; null where the table is full.
    template <typename... Args>
    std::pair<T*, uint32_t> emplace(Args&&... args)
    {
        if (_first >= _limit || _size == _limit - _first) {
            return {nullptr, 0};
        }
        uint32_t id = first_free();
        T* object = put(id, std::make_unique<T>(std::forward<Args>(args)...));
        _next = id + 1 < _limit ? id + 1 : _first;
        return {object, id};
    }

    // An object with an id of its own, as saved before. Null where the id is
    // out of range or in use.
    T* insert(uint32_t id, T&& object)
    {
        if (!is_id(id) || find(id)) {
            return nullptr;
        }
        return put(id, std::make_unique<T>(std::move(object)));
    }

    // Null where there is no such object.
    T* find(uint32_t id) const
    {
        // An id below _first wraps to a large index.
        uint32_t index = id - _first;
        uint32_t chunk = index / chunk_size;
        return chunk < _chunks.size() && _chunks[chunk]
                   ? _chunks[chunk]->slots[index % chunk_size].get()
                   : nullptr;
    }

    bool erase(uint32_t id)
    {
        if (!find(id)) {
            return false;
        }
        uint32_t index = id - _first;
        auto& chunk = _chunks[index / chunk_size];
        chunk->slots[index % chunk_size].reset();
        if (--chunk->used == 0) {
            chunk.reset();
        }
        while (!_chunks.empty() && !_chunks.back()) {
            _chunks.pop_back();
        }
        --_size;
        if (!_rotates) {
            _next = std::min(_next, id);
        }
        return true;
    }

    // Ids that are handed out in turn go on from where they are.
    void clear()
    {
        _chunks = std::vector<std::unique_ptr<Chunk>>(); // with its memory
        _size = 0;
        if (!_rotates) {
            _next = _first;
        }
    }

    size_t size() const { return _size; }
    // Above every id in use.
    uint32_t end() const { return _first + static_cast<uint32_t>(_chunks.size()) * chunk_size; }

    // fn(id, object) for each, in the order of ids.
    template <typename Fn>
    void for_each(Fn&& fn) const
    {
        for (size_t chunk = 0; chunk < _chunks.size(); ++chunk) {
            for (uint32_t i = 0; _chunks[chunk] && i < chunk_size; ++i) {
                if (T* object = _chunks[chunk]->slots[i].get()) {
                    fn(_first + static_cast<uint32_t>(chunk) * chunk_size + i, *object);
                }
            }
        }
    }

private:
    static constexpr uint32_t chunk_size = 256; // ids
    struct Chunk {
        std::array<std::unique_ptr<T>, chunk_size> slots;
        uint32_t used = 0;
    };

    // The first free id from _next on, of which there is one.
    uint32_t first_free() const
    {
        uint32_t index = _next - _first;
        uint32_t end = _limit - _first;
        for (;;) {
            if (index >= end) {
                index = 0;
            }
            uint32_t number = index / chunk_size;
            const Chunk* chunk = number < _chunks.size() ? _chunks[number].get() : nullptr;
            if (!chunk || !chunk->slots[index % chunk_size]) {
                return _first + index;
            }
            index = chunk->used == chunk_size ? (number + 1) * chunk_size : index + 1;
        }
    }

    T* put(uint32_t id, std::unique_ptr<T> object)
    {
        uint32_t index = id - _first;
        uint32_t number = index / chunk_size;
        if (_chunks.size() <= number) {
            _chunks.resize(number + 1);
        }
        auto& chunk = _chunks[number];
        if (!chunk) {
            chunk = std::make_unique<Chunk>();
        }
        ++chunk->used;
        ++_size;
        return (chunk->slots[index % chunk_size] = std::move(object)).get();
    }

    uint32_t _first;
    uint32_t _limit;
    uint32_t _next;
    bool _rotates = false;
    uint32_t _size = 0;
    std::vector<std::unique_ptr<Chunk>> _chunks;
};

} // namespace rdma
