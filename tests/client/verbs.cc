// SPDX-License-Identifier: GPL-2.0-or-later
#include "verbs.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace verify {

namespace {

constexpr uint8_t port_number = 1;
constexpr std::chrono::seconds patience{180};

template <typename T>
T* made(T* object, const char* what)
{
    if (!object) {
        throw Failure(fmt::format("{}: {}", what, std::strerror(errno)));
    }
    return object;
}

void done(int error, const char* what)
{
    if (error != 0) {
        throw Failure(fmt::format("{}: {}", what, std::strerror(error)));
    }
}

ibv_context* open_device(const std::string& name)
{
    int count = 0;
    ibv_device** list = ibv_get_device_list(&count);
    ibv_context* result = nullptr;
    for (int i = 0; i < count; ++i) {
        if (name == ibv_get_device_name(list[i])) {
            result = ibv_open_device(list[i]);
        }
    }
    ibv_free_device_list(list);
    return made(result, "ibv_open_device");
}

uint8_t* map(size_t size, size_t period)
{
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        throw Failure("mmap: out of memory");
    }
    auto* bytes = static_cast<uint8_t*>(memory);
    if (period != 0) {
        int file = memfd_create("rdma-verify", 0);
        done(ftruncate(file, static_cast<off_t>(period)) ? errno : 0, "ftruncate");
        for (size_t at = 0; at < size; at += period) {
            if (mmap(bytes + at, std::min(period, size - at), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
                throw Failure("mmap: out of memory");
            }
        }
        close(file);
    }
    return bytes;
}

} // namespace

Device::Device(const std::string& name, int gid_index)
    : _context(open_device(name)), _pd(made(ibv_alloc_pd(_context.get()), "ibv_alloc_pd")),
      _gid_index(gid_index)
{
    done(ibv_query_port(_context.get(), port_number, &_port), "ibv_query_port");
    done(ibv_query_gid(_context.get(), port_number, gid_index, &_gid) ? errno : 0, "ibv_query_gid");
}

OwnedCq Device::create_cq(int entries) const
{
    return OwnedCq(
        made(ibv_create_cq(context(), entries, nullptr, nullptr, 0), "ibv_create_cq"));
}

OwnedQp Device::create_qp(ibv_qp_type type, ibv_cq* send_cq, ibv_cq* recv_cq,
                          const ibv_qp_cap& cap) const
{
    ibv_qp_init_attr init{};
    init.send_cq = send_cq;
    init.recv_cq = recv_cq;
    init.cap = cap;
    init.qp_type = type;
    return OwnedQp(made(ibv_create_qp(pd(), &init), "ibv_create_qp"));
}

OwnedMr Device::reg_mr(void* address, size_t length, int access) const
{
    return OwnedMr(made(ibv_reg_mr(pd(), address, length, access), "ibv_reg_mr"));
}

Buffer::Buffer(const Device& device, size_t size, int access, size_t period)
    : _memory(map(size, period)), _size(size), _mr(device.reg_mr(_memory, size, access))
{
}

Buffer::~Buffer()
{
    _mr.reset();
    munmap(_memory, _size);
}

QpAddress address_of(const Device& device, const ibv_qp& qp)
{
    ibv_device_attr limits{};
    done(ibv_query_device(device.context(), &limits), "ibv_query_device");
    // PSNs begin near the end of their range: every run sees them wrap.
    return {qp.qp_num, (0xfffff0 - qp.qp_num) & 0xffffff, device.gid(), device.port().active_mtu,
            static_cast<uint8_t>(std::min({limits.max_qp_rd_atom, limits.max_qp_init_rd_atom, 16}))};
}

void to_init(ibv_qp* qp, const QpOptions& options)
{
    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = port_number;
    attr.qp_access_flags = static_cast<unsigned>(options.access);
    done(ibv_modify_qp(qp, &attr,
                       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
         "modify QP to INIT");
}

void to_state(ibv_qp* qp, ibv_qp_state state)
{
    ibv_qp_attr attr{};
    attr.qp_state = state;
    done(ibv_modify_qp(qp, &attr, IBV_QP_STATE), "ibv_modify_qp");
}

void connect(const Device& device, ibv_qp* qp, const QpAddress& ours, const QpAddress& theirs,
             const QpOptions& options)
{
    to_init(qp, options);

    ibv_qp_attr attr{};
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = std::min(ours.mtu, theirs.mtu);
    attr.dest_qp_num = theirs.qpn;
    attr.rq_psn = theirs.psn;
    attr.max_dest_rd_atomic = std::min(ours.max_rd_atomic, theirs.max_rd_atomic);
    attr.min_rnr_timer = options.min_rnr_timer;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.grh.dgid = theirs.gid;
    attr.ah_attr.grh.sgid_index = static_cast<uint8_t>(device.gid_index());
    attr.ah_attr.grh.hop_limit = 64;
    attr.ah_attr.port_num = port_number;
    done(ibv_modify_qp(qp, &attr,
                       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                           IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
         "modify QP to RTR");

    attr = {};
    attr.qp_state = IBV_QPS_RTS;
    attr.timeout = options.timeout;
    attr.retry_cnt = options.retry_cnt;
    attr.rnr_retry = options.rnr_retry;
    attr.sq_psn = ours.psn;
    attr.max_rd_atomic = std::min(ours.max_rd_atomic, theirs.max_rd_atomic);
    done(ibv_modify_qp(qp, &attr,
                       IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                           IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
         "modify QP to RTS");
}

void post_send(ibv_qp* qp, ibv_send_wr& wr)
{
    ibv_send_wr* bad = nullptr;
    done(ibv_post_send(qp, &wr, &bad), "ibv_post_send");
}

void post_recv(ibv_qp* qp, uint64_t wr_id, std::span<ibv_sge> sge)
{
    ibv_recv_wr wr{};
    wr.wr_id = wr_id;
    wr.sg_list = sge.data();
    wr.num_sge = static_cast<int>(sge.size());
    ibv_recv_wr* bad = nullptr;
    done(ibv_post_recv(qp, &wr, &bad), "ibv_post_recv");
}

ibv_wc next_completion(ibv_cq* cq)
{
    auto end = std::chrono::steady_clock::now() + patience;
    ibv_wc wc{};
    for (;;) {
        int n = ibv_poll_cq(cq, 1, &wc);
        expect(n >= 0, "ibv_poll_cq failed");
        if (n == 1) {
            return wc;
        }
        expect(std::chrono::steady_clock::now() < end, "no completion within {} s",
               patience.count());
    }
}

ibv_wc expect_completion(ibv_cq* cq, uint64_t wr_id, ibv_wc_status status)
{
    ibv_wc wc = next_completion(cq);
    expect(wc.wr_id == wr_id, "completion of request {:#x} instead of {:#x} ({})", wc.wr_id, wr_id,
           ibv_wc_status_str(wc.status));
    expect(wc.status == status, "request {:#x} completed with '{}' instead of '{}'", wr_id,
           ibv_wc_status_str(wc.status), ibv_wc_status_str(status));
    return wc;
}

void expect_empty(ibv_cq* cq)
{
    ibv_wc wc{};
    expect(ibv_poll_cq(cq, 1, &wc) == 0, "a completion too many: request {:#x}, '{}'", wc.wr_id,
           ibv_wc_status_str(wc.status));
}

} // namespace verify
