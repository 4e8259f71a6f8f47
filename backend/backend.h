// SPDX-License-Identifier: GPL-2.0-or-later
//
// What stands behind a virtual RDMA device. A device (hw/pvrdma,
// hw/virtio-rdma) translates guest layouts to the libibverbs types used here
// and back, and knows nothing of packets; a backend (backend/roce,
// backend/verbs) knows nothing of guest layouts.
//
// Objects are named by small integers: an id is at least 0 and less than the
// limit the backend was created with. Ids are what a device shows its guest as handles.
//
// Errors are positive errno values: EINVAL (bad argument or transition),
// ENOMEM (a limit is reached), EBUSY (still in use), ENOENT (no such object).
//
// Calls are serialised by the device's lock. Work requests are pulled: a
// doorbell tells the backend that there may be some, and the backend takes
// them through WorkSource when it has room, so that a guest's ring is the
// only queue.
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "stream.h"

namespace rdma {

template <typename T>
using Result = std::expected<T, int>; // error: a positive errno value

using Mac = std::array<uint8_t, 6>;

// Most scatter/gather entries a work request can carry.
inline constexpr unsigned max_sge_limit = 32;
// Most bytes a work request can carry itself.
inline constexpr unsigned max_inline_limit = 2048;
// Most pages a fast registration can name.
inline constexpr unsigned max_fast_reg_pages = 512;
// Unit of page lists, bytes.
inline constexpr uint64_t page_size = 4096;
inline constexpr uint8_t page_shift = 12;
static_assert(uint64_t{1} << page_shift == page_size);
// Pages of all memory regions together: 256 GiB registered at once, page lists of
// 512 MiB. What a region alone may have, times the number of regions, would be
// without a practical bound.
inline constexpr uint64_t max_pages_registered = uint64_t{1} << 26;

// Largest path MTU that fits a port, as Linux's iboe_get_mtu() computes it: GRH,
// UDP, BTH, XRC and atomic headers and ICRC fit beside it. port_mtu: bytes of an
// IP packet, 0 if not known.
constexpr ibv_mtu active_mtu(uint32_t port_mtu)
{
    constexpr uint32_t overhead = 40 + 8 + 12 + 4 + 28 + 4;
    if (port_mtu == 0) {
        return IBV_MTU_1024;
    }
    for (int mtu = IBV_MTU_4096; mtu > IBV_MTU_256; --mtu) {
        if (port_mtu >= overhead + (128u << mtu)) {
            return static_cast<ibv_mtu>(mtu);
        }
    }
    return IBV_MTU_256;
}

// Limits of one device; ids of each kind stay below them.
struct Limits {
    uint32_t max_qp;
    uint32_t max_qp_wr;
    uint32_t max_sge;
    uint32_t max_cq;
    uint32_t max_mr;
    uint64_t max_mr_size;
    uint32_t max_pd;
    uint32_t max_srq;
    uint32_t max_srq_wr;
    uint32_t gid_tbl_len;
    uint32_t max_qp_rd_atom;      // responder resources
    uint32_t max_qp_init_rd_atom; // initiator depth
    bool qpn_generations;         // QPNs may differ from ids (see QpNumbers)
    uint32_t roce_version;        // 1 or 2
    // Path MTUs up to 4096, whatever the MTU of the network card is: that is for the guest to
    // know.
    bool any_path_mtu = false;
    // From which a backend makes the first of the numbers that it hands out itself, QPNs
    // and keys: random, so that a life of the VM does not begin with those of the one
    // before. 0: they begin with the lowest.
    uint64_t number_seed = 0;
};

// Where packets of a connected QP or a datagram go: what libibverbs keeps in
// ibv_ah_attr, and the destination's Ethernet address, which the guest has
// already resolved.
struct AddressVector {
    ibv_ah_attr attr{};
    Mac dmac{};
};

// Work request opcodes: ibv_wr_opcode, and the one only kernels have.
inline constexpr int wr_fast_reg = 0x100;
// The opcode of its completion: a value that ibv_wc_opcode leaves free.
inline constexpr auto wc_fast_reg = static_cast<ibv_wc_opcode>(0x40);

// A work request of a send queue.
struct SendRequest {
    int opcode = IBV_WR_SEND; // ibv_wr_opcode or wr_fast_reg
    // wr_id, send_flags (INLINE: the data is inline_data, and there are no SGEs), num_sge, imm_data
    // or invalidate_rkey, and wr.rdma / wr.atomic / wr.ud without its AH. opcode, next and sg_list
    // are unused.
    ibv_send_wr wr{};
    std::array<ibv_sge, max_sge_limit> sge;
    uint32_t inline_length = 0; // bytes; 0 without INLINE
    std::array<std::byte, max_inline_limit> inline_data;
    AddressVector av{};  // UD: in place of wr.ud.ah
    struct {             // wr_fast_reg
        uint64_t iova;
        uint64_t length;
        uint32_t key;
        int access;      // ibv_access_flags
        uint32_t num_pages;
        std::array<uint64_t, max_fast_reg_pages> pages; // GPAs
    } fast_reg;
    // Set by the device where the guest's request cannot be decoded (unknown
    // opcode, too many SGEs): it completes with this status, at its turn.
    ibv_wc_status malformed = IBV_WC_SUCCESS;
};

// A work request of a receive queue or shared receive queue.
struct RecvRequest {
    uint64_t wr_id = 0;
    uint32_t num_sge = 0;
    std::array<ibv_sge, max_sge_limit> sge;
    ibv_wc_status malformed = IBV_WC_SUCCESS; // as in SendRequest
};

// What network a datagram came over: PVRDMA_NETWORK_* and the kernel's
// rdma_network_type agree on these values.
enum class NetworkType : uint8_t { roce_v1 = 0, ipv4 = 2, ipv6 = 3 };

// A work completion: ibv_wc and what its kernel twin has beside it.
struct Completion {
    ibv_wc wc{};          // qp_num is the QPN the guest sees
    uint32_t qp = 0;      // id
    bool solicited = false; // receive of a solicited event, or an error
    NetworkType network = NetworkType::roce_v1; // UD receives
    Mac smac{};           // UD receives
    std::optional<uint16_t> vlan; // UD receives: of their tag, whose priority is wc.sl
};

// Where a backend gets its work and leaves its results: the device.
class BackendClient {
public:
    // Take the next request off the QP's send queue / the QP's own receive
    // queue / the SRQ. False: there is none, and a doorbell tells of the next one. A backend that
    // stops before that comes again by itself.
    virtual bool pull_send(uint32_t qp, SendRequest& out) = 0;
    virtual bool pull_recv(uint32_t qp, RecvRequest& out) = 0;
    virtual bool pull_srq_recv(uint32_t srq, RecvRequest& out) = 0;
    // Requests in the SRQ that have not been taken.
    virtual uint32_t srq_depth(uint32_t srq) = 0;
    // A completion for the CQ. False: the CQ has overrun (the device raises
    // its own asynchronous event); the completion is lost.
    virtual bool complete(uint32_t cq, const Completion& completion) = 0;
    // The outcome of a modify_qp() that returned EINPROGRESS.
    virtual void modified(uint32_t /*qp*/, int /*error*/) {}
    // An asynchronous event; object is the id of the QP, CQ or SRQ it is
    // affiliated with, or the port number (1).
    virtual void async_event(ibv_event_type type, uint32_t object) = 0;

protected:
    ~BackendClient() = default;
};

struct MrInit {
    enum class Kind {
        user,     // pages, iova, length
        dma,      // all of guest memory, addressed by GPA; local access only
        fast_reg, // empty until a fast registration; at most max_pages
    };
    Kind kind = Kind::user;
    uint32_t pd = 0;
    int access = 0;       // ibv_access_flags
    uint64_t iova = 0;
    uint64_t length = 0;  // bytes, > 0
    std::span<const uint64_t> pages; // GPAs of the 4 KiB pages from iova's on
    uint32_t max_pages = 0;
};

struct MrKeys {
    uint32_t id;
    uint32_t lkey;
    uint32_t rkey;
};

struct QpInit {
    ibv_qp_type type = IBV_QPT_RC; // RC, UC, UD
    bool gsi = false;              // the GSI QP (QPN 1): type UD
    uint32_t pd = 0;
    uint32_t send_cq = 0;
    uint32_t recv_cq = 0;
    bool use_srq = false;
    uint32_t srq = 0;
    ibv_qp_cap cap{};
    bool sq_sig_all = false;
};

// A QP's id and the number it goes by on the wire. With qpn_generations the
// QPN is id plus a generation in bits 16 to 23; without, it is the id (the GSI QP
// apart: always QPN 1). Where the backend hands the numbers out itself, one is not used
// again before the others have been.
struct QpNumbers {
    uint32_t id;
    uint32_t qpn;
};

// What a backend serves beside what Limits say.
struct Features {
    bool fast_registration = true; // MRs of kind fast_reg, wr_fast_reg, IBV_WR_LOCAL_INV
    bool atomics = true;
    uint32_t max_inline = max_inline_limit; // bytes of a SendRequest's inline_data
};

enum class ObjectKind { pd, mr, cq, srq, qp };

class Backend {
public:
    virtual ~Backend() = default;

    // As after creation: every object is gone.
    virtual void reset() = 0;

    virtual Features features() const { return {}; }
    // The attributes of the host's port that stands behind the device's; nothing
    // where that is the paired NIC.
    virtual std::optional<ibv_port_attr> host_port() const { return std::nullopt; }

    virtual Result<uint32_t> alloc_pd() = 0;
    virtual int dealloc_pd(uint32_t pd) = 0; // 0, ENOENT, EBUSY

    virtual Result<MrKeys> reg_mr(const MrInit& init) = 0;
    virtual int dereg_mr(uint32_t mr) = 0;

    virtual Result<uint32_t> create_cq() = 0;
    virtual int destroy_cq(uint32_t cq) = 0;

    virtual Result<uint32_t> create_srq(uint32_t pd, const ibv_srq_attr& attr) = 0;
    // A limit other than 0 is armed: once fewer requests than that are left, or
    // at once if they are already, IBV_EVENT_SRQ_LIMIT_REACHED tells so, and the
    // limit is 0 again (IBTA vol. 1, 11.2.3.3 and 11.6.3.2).
    virtual int modify_srq(uint32_t srq, const ibv_srq_attr& attr, int mask) = 0;
    virtual int query_srq(uint32_t srq, ibv_srq_attr& attr) = 0;
    virtual int destroy_srq(uint32_t srq) = 0;

    virtual Result<QpNumbers> create_qp(const QpInit& init) = 0;
    // mask: ibv_qp_attr_mask. av.dmac goes with attr.ah_attr. Checks the
    // transition and its attributes as IBTA vol. 1, 10.3 and 11.2.5.2 have it;
    // on an error nothing has changed. EINPROGRESS: BackendClient::modified() tells
    // the outcome, unless another modify_qp() or destroy_qp() of the QP takes it back.
    virtual int modify_qp(uint32_t qp, const ibv_qp_attr& attr, int mask, const Mac& dmac) = 0;
    virtual int query_qp(uint32_t qp, ibv_qp_attr& attr, Mac& dmac) = 0;
    virtual int destroy_qp(uint32_t qp) = 0;
    // The device can take nothing from the QP's queues any more: the QP goes to the error state,
    // behind an IBV_EVENT_QP_FATAL, unless it is there or in RESET. May be called by
    // BackendClient::pull_*: it takes effect later, when what is under way is done.
    virtual void fail_qp(uint32_t qp) = 0;

    // type: 1 RoCEv1, 2 RoCEv2. vlan: the identifier of the VLAN it is on, if the
    // guest has said so; otherwise the backend finds out as it can.
    virtual int add_gid(uint32_t index, const ibv_gid& gid, uint32_t type,
                        std::optional<uint16_t> vlan = {}) = 0;
    virtual int del_gid(uint32_t index) = 0;

    // There may be new requests. An unknown id is ignored and counted.
    virtual void send_doorbell(uint32_t qp) = 0;
    virtual void recv_doorbell(uint32_t qp) = 0;
    virtual void srq_doorbell(uint32_t srq) = 0;

    // Whether there is such an object, and how many of a kind: for the check of
    // a loaded stream. The GSI QP, which has id 1, counts as a QP.
    virtual bool exists(ObjectKind kind, uint32_t id) const = 0;
    virtual size_t count(ObjectKind kind) const = 0;

    // Migration (migration/stream.h). The backend rests: it has been stopped.
    virtual void save(migration::StreamWriter& stream) = 0;
    // After reset(): takes one section of kinds 16 to 63, which come in the order
    // that save() wrote them. On an error, reset() leaves nothing behind.
    virtual migration::Status load(const migration::Section& section) = 0;
};

} // namespace rdma
