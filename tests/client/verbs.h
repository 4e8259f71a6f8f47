// SPDX-License-Identifier: GPL-2.0-or-later
//
// libibverbs with owners, errors as exceptions, and connected QPs.
#pragma once

#include <fmt/format.h>
#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "control.h"

namespace verify {

// What a check found. Ends the program with status 1.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <typename... Args>
void expect(bool condition, fmt::format_string<Args...> what, Args&&... args)
{
    if (!condition) {
        throw Failure(fmt::format(what, std::forward<Args>(args)...));
    }
}

template <typename T, int (*destroy)(T*)>
struct Destroy {
    void operator()(T* object) const { destroy(object); }
};
template <typename T, int (*destroy)(T*)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;

using OwnedCq = Owned<ibv_cq, ibv_destroy_cq>;
using OwnedQp = Owned<ibv_qp, ibv_destroy_qp>;
using OwnedMr = Owned<ibv_mr, ibv_dereg_mr>;
using OwnedAh = Owned<ibv_ah, ibv_destroy_ah>;

// An open device with a PD: port 1, one of its GIDs.
class Device {
public:
    Device(const std::string& name, int gid_index);

    ibv_context* context() const { return _context.get(); }
    ibv_pd* pd() const { return _pd.get(); }
    const ibv_port_attr& port() const { return _port; }
    const ibv_gid& gid() const { return _gid; }
    int gid_index() const { return _gid_index; }

    OwnedCq create_cq(int entries) const;
    OwnedQp create_qp(ibv_qp_type type, ibv_cq* send_cq, ibv_cq* recv_cq,
                      const ibv_qp_cap& cap) const;
    OwnedMr reg_mr(void* address, size_t length, int access) const;

private:
    Owned<ibv_context, ibv_close_device> _context;
    Owned<ibv_pd, ibv_dealloc_pd> _pd;
    ibv_port_attr _port{};
    ibv_gid _gid{};
    int _gid_index;
};

inline constexpr int all_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                  IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// Registered memory. How it is mapped: of its own, or the same `period` bytes
// again and again, so that a small guest can have a large region.
class Buffer {
public:
    Buffer(const Device& device, size_t size, int access = all_access, size_t period = 0);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::span<uint8_t> bytes() const { return {_memory, _size}; }
    uint64_t address(size_t offset = 0) const { return reinterpret_cast<uint64_t>(_memory) + offset; }
    uint32_t lkey() const { return _mr->lkey; }
    uint32_t rkey() const { return _mr->rkey; }
    ibv_sge sge(size_t offset, size_t length) const
    {
        return {address(offset), static_cast<uint32_t>(length), lkey()};
    }

private:
    uint8_t* _memory;
    size_t _size;
    OwnedMr _mr;
};

// How a QP is brought up; the standard's encodings.
struct QpOptions {
    uint8_t timeout = 17; // 0.5 s: emulated guests on few CPUs are slow at times
    uint8_t retry_cnt = 7;
    uint8_t rnr_retry = 7; // without end
    uint8_t min_rnr_timer = 12; // 0.64 ms
    int access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
};

// What one side tells the other of a QP.
struct QpAddress {
    uint32_t qpn;
    uint32_t psn;
    ibv_gid gid;
    ibv_mtu mtu;
    uint8_t max_rd_atomic;
};

QpAddress address_of(const Device& device, const ibv_qp& qp);

// Brings an RC QP from RESET to RTS, towards the peer's.
void connect(const Device& device, ibv_qp* qp, const QpAddress& ours, const QpAddress& theirs,
             const QpOptions& options = {});
void to_init(ibv_qp* qp, const QpOptions& options = {});
void to_state(ibv_qp* qp, ibv_qp_state state);

void post_send(ibv_qp* qp, ibv_send_wr& wr);
void post_recv(ibv_qp* qp, uint64_t wr_id, std::span<ibv_sge> sge);

// The next completion; throws after three minutes without one.
ibv_wc next_completion(ibv_cq* cq);
// The next completion, which must be this one.
ibv_wc expect_completion(ibv_cq* cq, uint64_t wr_id, ibv_wc_status status = IBV_WC_SUCCESS);
void expect_empty(ibv_cq* cq);

inline size_t mtu_bytes(ibv_mtu mtu)
{
    return size_t{128} << mtu;
}

} // namespace verify
