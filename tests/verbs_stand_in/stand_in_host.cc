// SPDX-License-Identifier: GPL-2.0-or-later
#include "stand_in_host.h"

#include <arpa/inet.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "gid.h"

namespace rdma::test {

namespace {

constexpr uint32_t first_qpn = 17;
constexpr uint32_t first_key = 0x1000;
constexpr size_t grh_size = 40;

struct Device;

struct Context : verbs_context {
    Device* device = nullptr;
};

struct Cq;

struct Channel : ibv_comp_channel {
    std::deque<Cq*> events;
};

struct Cq : ibv_cq {
    std::deque<ibv_wc> entries;
    bool armed = false;
};

struct Mr : ibv_mr {
    uint64_t iova = 0;
    unsigned access = 0;
};

struct Recv {
    uint64_t wr_id = 0;
    std::vector<ibv_sge> sges;
};

struct Send {
    ibv_send_wr wr{};
    std::vector<ibv_sge> sges;
};

struct Srq : ibv_srq {
    std::deque<Recv> recvs;
};

struct Ah : ibv_ah {
    ibv_ah_attr attr{};
};

struct Qp : ibv_qp {
    Device* device = nullptr;
    ibv_qp_attr attr{};
    bool signals_all = false;
    std::deque<Send> sends;
    std::deque<Recv> recvs;
};

struct Device {
    ibv_device device{};
    std::vector<ibv_gid> gids;
    std::map<uint32_t, Qp*> qps;
    std::map<uint32_t, Mr*> mrs; // by key: lkey and rkey are the same
};

struct Network {
    std::vector<std::unique_ptr<Device>> devices;

    Device* find(std::string_view name) const
    {
        auto found = std::ranges::find_if(
            devices, [&](const auto& each) { return each->device.name == name; });
        return found == devices.end() ? nullptr : found->get();
    }
};
Network* network;
// Backends may be on threads of their own.
std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

Device& device_of(ibv_context* context)
{
    return *static_cast<Context*>(verbs_get_ctx(context))->device;
}

template <typename T>
uint32_t lowest_free(const std::map<uint32_t, T>& used, uint32_t first)
{
    for (const auto& [number, object] : used) {
        if (number != first) {
            break;
        }
        ++first;
    }
    return first;
}

// ---- completions ----

void complete(ibv_cq* of, const ibv_wc& wc)
{
    Cq& cq = *static_cast<Cq*>(of);
    cq.entries.push_back(wc);
    if (cq.armed && cq.channel) {
        cq.armed = false;
        static_cast<Channel*>(cq.channel)->events.push_back(&cq);
        eventfd_write(cq.channel->fd, 1);
    }
}

void complete_send(Qp& qp, const Send& send, ibv_wc_status status)
{
    if (status == IBV_WC_SUCCESS && !qp.signals_all && !(send.wr.send_flags & IBV_SEND_SIGNALED)) {
        return;
    }
    ibv_wc wc{};
    wc.wr_id = send.wr.wr_id;
    wc.status = status;
    wc.qp_num = qp.qp_num;
    complete(qp.send_cq, wc);
}

void complete_recv(Qp& qp, const Recv& recv, ibv_wc wc)
{
    wc.wr_id = recv.wr_id;
    wc.qp_num = qp.qp_num;
    complete(qp.recv_cq, wc);
}

void enter_error(Qp& qp)
{
    qp.state = IBV_QPS_ERR;
    for (const Send& send : std::exchange(qp.sends, {})) {
        complete_send(qp, send, IBV_WC_WR_FLUSH_ERR);
    }
    for (const Recv& recv : std::exchange(qp.recvs, {})) {
        ibv_wc wc{};
        wc.status = IBV_WC_WR_FLUSH_ERR;
        complete_recv(qp, recv, wc);
    }
}

// ---- memory ----

// Null: the PD has no such memory with these rights.
std::byte* find_memory(const Device& device, const ibv_pd* pd, uint32_t key, uint64_t address,
                       uint64_t length, unsigned rights)
{
    auto found = device.mrs.find(key);
    if (found == device.mrs.end()) {
        return nullptr;
    }
    const Mr& mr = *found->second;
    bool ok = mr.pd == pd && (mr.access & rights) == rights && address >= mr.iova &&
              length <= mr.length && address - mr.iova <= mr.length - length;
    return ok ? static_cast<std::byte*>(mr.addr) + (address - mr.iova) : nullptr;
}

using Bytes = std::vector<std::byte>;

std::optional<Bytes> gather(const Qp& qp, const std::vector<ibv_sge>& sges)
{
    Bytes bytes;
    for (const ibv_sge& sge : sges) {
        const std::byte* at = find_memory(*qp.device, qp.pd, sge.lkey, sge.addr, sge.length, 0);
        if (!at) {
            return std::nullopt;
        }
        bytes.insert(bytes.end(), at, at + sge.length);
    }
    return bytes;
}

ibv_wc_status scatter(const Qp& qp, const std::vector<ibv_sge>& sges,
                      std::span<const std::byte> bytes)
{
    for (const ibv_sge& sge : sges) {
        size_t size = std::min<size_t>(sge.length, bytes.size());
        std::byte* at =
            find_memory(*qp.device, qp.pd, sge.lkey, sge.addr, size, IBV_ACCESS_LOCAL_WRITE);
        if (!at) {
            return IBV_WC_LOC_PROT_ERR;
        }
        std::ranges::copy(bytes.first(size), at);
        bytes = bytes.subspan(size);
    }
    return bytes.empty() ? IBV_WC_SUCCESS : IBV_WC_LOC_LEN_ERR;
}

uint64_t length_of(const std::vector<ibv_sge>& sges)
{
    uint64_t length = 0;
    for (const ibv_sge& sge : sges) {
        length += sge.length;
    }
    return length;
}

// ---- requests ----

void progress(Qp& qp);

bool takes_requests(const Qp& qp)
{
    return qp.state == IBV_QPS_RTR || qp.state == IBV_QPS_RTS || qp.state == IBV_QPS_SQD;
}

const ibv_gid& own_gid(const Qp& qp)
{
    return qp.device->gids.at(qp.attr.ah_attr.grh.sgid_index);
}

bool has_gid(const Device& device, const ibv_gid& gid)
{
    return std::ranges::any_of(device.gids, [&](const ibv_gid& own) { return same_gid(own, gid); });
}

// Null: nobody answers.
Qp* find_destination(const Qp& qp, const Send& send)
{
    bool datagram = qp.qp_type == IBV_QPT_UD;
    const ibv_gid& gid =
        datagram ? static_cast<Ah*>(send.wr.wr.ud.ah)->attr.grh.dgid : qp.attr.ah_attr.grh.dgid;
    uint32_t number = datagram ? send.wr.wr.ud.remote_qpn : qp.attr.dest_qp_num;
    for (const auto& device : network->devices) {
        auto found = device->qps.find(number);
        if (found == device->qps.end() || !has_gid(*device, gid)) {
            continue;
        }
        Qp& peer = *found->second;
        bool connected = datagram || (peer.attr.dest_qp_num == qp.qp_num &&
                                      same_gid(peer.attr.ah_attr.grh.dgid, own_gid(qp)));
        if (connected && takes_requests(peer) && peer.qp_type == qp.qp_type) {
            return &peer;
        }
    }
    return nullptr;
}

std::deque<Recv>& receive_queue(Qp& qp)
{
    return qp.srq ? static_cast<Srq*>(qp.srq)->recvs : qp.recvs;
}

bool takes_receive(ibv_wr_opcode opcode)
{
    return opcode == IBV_WR_SEND || opcode == IBV_WR_SEND_WITH_IMM ||
           opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

bool has_immediate(ibv_wr_opcode opcode)
{
    return opcode == IBV_WR_SEND_WITH_IMM || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

// The receiver's part of a message. What is no success is the sender's status.
ibv_wc_status deliver(Qp& to, const Qp& from, const Send& send, std::span<const std::byte> bytes)
{
    bool write =
        send.wr.opcode == IBV_WR_RDMA_WRITE || send.wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
    if (write && !bytes.empty()) {
        std::byte* at =
            find_memory(*to.device, to.pd, send.wr.wr.rdma.rkey, send.wr.wr.rdma.remote_addr,
                        bytes.size(), IBV_ACCESS_REMOTE_WRITE);
        if (!at) {
            enter_error(to);
            return IBV_WC_REM_ACCESS_ERR;
        }
        std::ranges::copy(bytes, at);
    }
    if (!takes_receive(send.wr.opcode)) {
        return IBV_WC_SUCCESS;
    }
    Recv recv = std::move(receive_queue(to).front());
    receive_queue(to).pop_front();
    ibv_wc wc{};
    wc.opcode = write ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV;
    wc.byte_len = static_cast<uint32_t>(bytes.size());
    if (has_immediate(send.wr.opcode)) {
        wc.wc_flags = IBV_WC_WITH_IMM;
        wc.imm_data = send.wr.imm_data;
    }
    Bytes datagram;
    if (to.qp_type == IBV_QPT_UD) {
        wc.wc_flags |= IBV_WC_GRH;
        wc.src_qp = from.qp_num;
        wc.byte_len += grh_size;
        datagram.resize(grh_size);
        datagram.insert(datagram.end(), bytes.begin(), bytes.end());
        bytes = datagram;
    }
    wc.status = write ? IBV_WC_SUCCESS : scatter(to, recv.sges, bytes);
    complete_recv(to, recv, wc);
    if (wc.status != IBV_WC_SUCCESS) {
        enter_error(to);
        return IBV_WC_REM_OP_ERR;
    }
    return IBV_WC_SUCCESS;
}

ibv_wc_status read_or_add(Qp& to, const Qp& from, const Send& send)
{
    const ibv_send_wr& wr = send.wr;
    bool read = wr.opcode == IBV_WR_RDMA_READ;
    uint64_t length = read ? length_of(send.sges) : sizeof(uint64_t);
    std::byte* at = find_memory(*to.device, to.pd, read ? wr.wr.rdma.rkey : wr.wr.atomic.rkey,
                                read ? wr.wr.rdma.remote_addr : wr.wr.atomic.remote_addr, length,
                                read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_ATOMIC);
    if (!at) {
        enter_error(to);
        return IBV_WC_REM_ACCESS_ERR;
    }
    Bytes before(at, at + length);
    if (!read) {
        uint64_t value;
        std::memcpy(&value, at, sizeof(value));
        if (wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
            value += wr.wr.atomic.compare_add;
        } else if (value == wr.wr.atomic.compare_add) {
            value = wr.wr.atomic.swap;
        }
        std::memcpy(at, &value, sizeof(value));
    }
    return scatter(from, send.sges, before);
}

// False: it has to wait.
bool carry_out(Qp& qp)
{
    const Send send = qp.sends.front();
    bool datagram = qp.qp_type == IBV_QPT_UD;
    Qp* to = find_destination(qp, send);
    bool ready = to && (!takes_receive(send.wr.opcode) || !receive_queue(*to).empty());
    if (!ready && !datagram) {
        return false;
    }
    qp.sends.pop_front();
    bool answered = send.wr.opcode == IBV_WR_RDMA_READ ||
                    send.wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD ||
                    send.wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
    ibv_wc_status status = IBV_WC_SUCCESS;
    if (answered) {
        status = read_or_add(*to, qp, send);
    } else if (auto bytes = gather(qp, send.sges); !bytes) {
        status = IBV_WC_LOC_PROT_ERR;
    } else if (ready) {
        status = deliver(*to, qp, send, *bytes);
    }
    complete_send(qp, send, status);
    if (status != IBV_WC_SUCCESS) {
        enter_error(qp);
    }
    return true;
}

void progress(Qp& qp)
{
    while (qp.state == IBV_QPS_RTS && !qp.sends.empty() && carry_out(qp)) {
    }
}

// Something may have become possible.
void progress_all()
{
    for (const auto& device : network->devices) {
        for (const auto& [qpn, qp] : device->qps) {
            progress(*qp);
        }
    }
}

// ---- what is called through the context ----

int poll_cq(ibv_cq* of, int count, ibv_wc* wcs)
{
    Lock lock(mutex);
    Cq& cq = *static_cast<Cq*>(of);
    int taken = 0;
    for (; taken < count && !cq.entries.empty(); ++taken) {
        wcs[taken] = cq.entries.front();
        cq.entries.pop_front();
    }
    return taken;
}

int req_notify_cq(ibv_cq* cq, int)
{
    Lock lock(mutex);
    static_cast<Cq*>(cq)->armed = true;
    return 0;
}

int post_send(ibv_qp* of, ibv_send_wr* wr, ibv_send_wr** bad)
{
    Lock lock(mutex);
    Qp& qp = *static_cast<Qp*>(of);
    for (; wr; wr = wr->next) {
        if (qp.state != IBV_QPS_RTS && qp.state != IBV_QPS_SQD && qp.state != IBV_QPS_ERR) {
            *bad = wr;
            return EINVAL;
        }
        qp.sends.push_back({*wr, {wr->sg_list, wr->sg_list + wr->num_sge}});
    }
    if (qp.state == IBV_QPS_ERR) {
        enter_error(qp);
    }
    progress(qp);
    return 0;
}

void append(std::deque<Recv>& recvs, ibv_recv_wr* wr)
{
    for (; wr; wr = wr->next) {
        recvs.push_back({wr->wr_id, {wr->sg_list, wr->sg_list + wr->num_sge}});
    }
}

int post_recv(ibv_qp* of, ibv_recv_wr* wr, ibv_recv_wr** bad)
{
    Lock lock(mutex);
    Qp& qp = *static_cast<Qp*>(of);
    if (qp.state == IBV_QPS_RESET) {
        *bad = wr;
        return EINVAL;
    }
    append(qp.recvs, wr);
    if (qp.state == IBV_QPS_ERR) {
        enter_error(qp);
    }
    progress_all();
    return 0;
}

int post_srq_recv(ibv_srq* srq, ibv_recv_wr* wr, ibv_recv_wr**)
{
    Lock lock(mutex);
    append(static_cast<Srq*>(srq)->recvs, wr);
    progress_all();
    return 0;
}

int query_port(ibv_context* context, uint8_t, ibv_port_attr* attr, size_t size)
{
    ibv_port_attr port{};
    port.state = IBV_PORT_ACTIVE;
    port.max_mtu = port.active_mtu = IBV_MTU_4096;
    port.gid_tbl_len = static_cast<int>(device_of(context).gids.size());
    port.link_layer = IBV_LINK_LAYER_ETHERNET;
    std::memcpy(attr, &port, std::min(size, sizeof(port)));
    return 0;
}

} // namespace

ibv_gid gid_of(const char* address)
{
    ibv_gid gid{};
    gid.raw[10] = gid.raw[11] = 0xff;
    if (inet_pton(AF_INET, address, gid.raw + 12) != 1 &&
        inet_pton(AF_INET6, address, gid.raw) != 1) {
        throw std::invalid_argument(address);
    }
    return gid;
}

StandInHost::StandInHost()
{
    network = new Network;
}

StandInHost::~StandInHost()
{
    delete std::exchange(network, nullptr);
}

void StandInHost::add_device(const std::string& name, std::vector<ibv_gid> gids)
{
    auto device = std::make_unique<Device>();
    name.copy(device->device.name, sizeof(device->device.name) - 1);
    name.copy(device->device.dev_name, sizeof(device->device.dev_name) - 1);
    device->gids = std::move(gids);
    network->devices.push_back(std::move(device));
}

ibv_qp_state StandInHost::qp_state(const std::string& device, uint32_t qpn) const
{
    const auto& qps = network->find(device)->qps;
    auto found = qps.find(qpn);
    return found == qps.end() ? IBV_QPS_UNKNOWN : found->second->state;
}

bool StandInHost::write_from_outside(const std::string& device, uint32_t qpn, uint32_t rkey,
                                     uint64_t iova, std::span<const std::byte> bytes)
{
    auto found = network->find(device)->qps.find(qpn);
    if (found == network->find(device)->qps.end() || !takes_requests(*found->second)) {
        return false;
    }
    const Qp& qp = *found->second;
    std::byte* at =
        find_memory(*qp.device, qp.pd, rkey, iova, bytes.size(), IBV_ACCESS_REMOTE_WRITE);
    if (at) {
        std::ranges::copy(bytes, at);
    }
    return at;
}

size_t StandInHost::num_regions(const std::string& device) const
{
    return network->find(device)->mrs.size();
}

} // namespace rdma::test

// ---- libibverbs' functions ----

using namespace rdma::test;

#undef ibv_reg_mr

extern "C" {

ibv_device** ibv_get_device_list(int* count)
{
    size_t size = network ? network->devices.size() : 0;
    auto** list = new ibv_device*[size + 1]();
    for (size_t i = 0; i < size; ++i) {
        list[i] = &network->devices[i]->device;
    }
    if (count) {
        *count = static_cast<int>(size);
    }
    return list;
}

void ibv_free_device_list(ibv_device** list)
{
    delete[] list;
}

const char* ibv_get_device_name(ibv_device* device)
{
    return device->name;
}

ibv_context* ibv_open_device(ibv_device* device)
{
    auto* made = new Context{};
    made->device = network->find(device->name);
    made->sz = sizeof(verbs_context);
    made->query_port = query_port;
    made->context.device = device;
    made->context.abi_compat = __VERBS_ABI_IS_EXTENDED;
    made->context.async_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    made->context.num_comp_vectors = 1;
    made->context.ops.poll_cq = poll_cq;
    made->context.ops.req_notify_cq = req_notify_cq;
    made->context.ops.post_send = post_send;
    made->context.ops.post_recv = post_recv;
    made->context.ops.post_srq_recv = post_srq_recv;
    return &made->context;
}

int ibv_close_device(ibv_context* context)
{
    close(context->async_fd);
    delete static_cast<Context*>(verbs_get_ctx(context));
    return 0;
}

int ibv_query_device(ibv_context*, ibv_device_attr* attr)
{
    *attr = {};
    attr->max_mr_size = UINT64_MAX;
    attr->max_qp = attr->max_cq = attr->max_mr = attr->max_pd = attr->max_srq = attr->max_ah =
        1 << 16;
    attr->max_qp_wr = attr->max_srq_wr = 1 << 15;
    attr->max_sge = attr->max_srq_sge = 32;
    attr->max_cqe = 1 << 22;
    attr->max_qp_rd_atom = attr->max_qp_init_rd_atom = 128;
    attr->atomic_cap = IBV_ATOMIC_HCA;
    attr->phys_port_cnt = 1;
    return 0;
}

int ibv_query_gid(ibv_context* context, uint8_t, int index, ibv_gid* gid)
{
    const auto& gids = device_of(context).gids;
    if (index < 0 || static_cast<size_t>(index) >= gids.size()) {
        return -1;
    }
    *gid = gids[static_cast<size_t>(index)];
    return 0;
}

ssize_t _ibv_query_gid_table(ibv_context* context, ibv_gid_entry* entries, size_t max, uint32_t,
                             size_t)
{
    const auto& gids = device_of(context).gids;
    size_t count = std::min(max, gids.size());
    for (uint32_t i = 0; i < count; ++i) {
        entries[i] = {.gid = gids[i],
                      .gid_index = i,
                      .port_num = 1,
                      .gid_type = IBV_GID_TYPE_ROCE_V2,
                      .ndev_ifindex = 0};
    }
    return static_cast<ssize_t>(count);
}

// There are none as yet.
int ibv_get_async_event(ibv_context*, ibv_async_event*)
{
    errno = EAGAIN;
    return -1;
}

void ibv_ack_async_event(ibv_async_event*) {}

ibv_pd* ibv_alloc_pd(ibv_context* context)
{
    return new ibv_pd{context, 0};
}

int ibv_dealloc_pd(ibv_pd* pd)
{
    delete pd;
    return 0;
}

ibv_mr* ibv_reg_mr_iova2(ibv_pd* pd, void* address, size_t length, uint64_t iova, unsigned access)
{
    Lock lock(mutex);
    Device& device = device_of(pd->context);
    auto* mr = new Mr{};
    mr->context = pd->context;
    mr->pd = pd;
    mr->addr = address;
    mr->length = length;
    mr->iova = iova;
    mr->access = access;
    mr->lkey = mr->rkey = lowest_free(device.mrs, first_key);
    device.mrs[mr->lkey] = mr;
    return mr;
}

ibv_mr* ibv_reg_mr(ibv_pd* pd, void* address, size_t length, int access)
{
    return ibv_reg_mr_iova2(pd, address, length, reinterpret_cast<uintptr_t>(address),
                            static_cast<unsigned>(access));
}

int ibv_dereg_mr(ibv_mr* mr)
{
    Lock lock(mutex);
    device_of(mr->context).mrs.erase(mr->lkey);
    delete static_cast<Mr*>(mr);
    return 0;
}

ibv_comp_channel* ibv_create_comp_channel(ibv_context* context)
{
    auto* channel = new Channel{};
    channel->context = context;
    channel->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    return channel;
}

int ibv_destroy_comp_channel(ibv_comp_channel* channel)
{
    close(channel->fd);
    delete static_cast<Channel*>(channel);
    return 0;
}

ibv_cq* ibv_create_cq(ibv_context* context, int cqe, void* of, ibv_comp_channel* channel, int)
{
    auto* cq = new Cq{};
    cq->context = context;
    cq->channel = channel;
    cq->cq_context = of;
    cq->cqe = cqe;
    return cq;
}

int ibv_resize_cq(ibv_cq* cq, int cqe)
{
    cq->cqe = cqe;
    return 0;
}

int ibv_destroy_cq(ibv_cq* cq)
{
    Lock lock(mutex);
    if (cq->channel) {
        std::erase(static_cast<Channel*>(cq->channel)->events, static_cast<Cq*>(cq));
    }
    delete static_cast<Cq*>(cq);
    return 0;
}

int ibv_get_cq_event(ibv_comp_channel* of, ibv_cq** cq, void** context)
{
    Lock lock(mutex);
    auto& channel = *static_cast<Channel*>(of);
    eventfd_t one;
    while (eventfd_read(channel.fd, &one) == 0) {
        // Of a CQ that has ended the event has, too.
        if (!channel.events.empty()) {
            *cq = channel.events.front();
            *context = (*cq)->cq_context;
            channel.events.pop_front();
            return 0;
        }
    }
    return -1;
}

void ibv_ack_cq_events(ibv_cq*, unsigned) {}

ibv_srq* ibv_create_srq(ibv_pd* pd, ibv_srq_init_attr*)
{
    auto* srq = new Srq{};
    srq->context = pd->context;
    srq->pd = pd;
    return srq;
}

// Limits are not watched as yet.
int ibv_modify_srq(ibv_srq*, ibv_srq_attr*, int)
{
    return 0;
}

int ibv_destroy_srq(ibv_srq* srq)
{
    Lock lock(mutex);
    delete static_cast<Srq*>(srq);
    return 0;
}

ibv_qp* ibv_create_qp(ibv_pd* pd, ibv_qp_init_attr* init)
{
    Lock lock(mutex);
    Device& device = device_of(pd->context);
    auto* qp = new Qp{};
    qp->context = pd->context;
    qp->qp_context = init->qp_context;
    qp->pd = pd;
    qp->send_cq = init->send_cq;
    qp->recv_cq = init->recv_cq;
    qp->srq = init->srq;
    qp->qp_type = init->qp_type;
    qp->signals_all = init->sq_sig_all;
    qp->device = &device;
    qp->qp_num = lowest_free(device.qps, first_qpn);
    device.qps[qp->qp_num] = qp;
    return qp;
}

int ibv_modify_qp(ibv_qp* of, ibv_qp_attr* attr, int mask)
{
    Lock lock(mutex);
    Qp& qp = *static_cast<Qp*>(of);
    if (mask & IBV_QP_AV) {
        qp.attr.ah_attr = attr->ah_attr;
    }
    if (mask & IBV_QP_DEST_QPN) {
        qp.attr.dest_qp_num = attr->dest_qp_num;
    }
    if (mask & IBV_QP_SQ_PSN) {
        qp.attr.sq_psn = attr->sq_psn;
    }
    if (mask & IBV_QP_RQ_PSN) {
        qp.attr.rq_psn = attr->rq_psn;
    }
    if (!(mask & IBV_QP_STATE)) {
        return 0;
    }
    qp.state = attr->qp_state;
    if (qp.state == IBV_QPS_RESET) {
        qp.sends.clear();
        qp.recvs.clear();
        qp.attr = {};
    } else if (qp.state == IBV_QPS_ERR) {
        enter_error(qp);
    }
    progress_all();
    return 0;
}

int ibv_query_qp(ibv_qp* of, ibv_qp_attr* attr, int, ibv_qp_init_attr*)
{
    Lock lock(mutex);
    *attr = static_cast<Qp*>(of)->attr;
    attr->qp_state = attr->cur_qp_state = of->state;
    return 0;
}

int ibv_destroy_qp(ibv_qp* qp)
{
    Lock lock(mutex);
    device_of(qp->context).qps.erase(qp->qp_num);
    delete static_cast<Qp*>(qp);
    return 0;
}

// The two that other threads call.
ibv_ah* ibv_create_ah(ibv_pd* pd, ibv_ah_attr* attr)
{
    auto* ah = new Ah{};
    ah->context = pd->context;
    ah->pd = pd;
    ah->attr = *attr;
    return ah;
}

int ibv_destroy_ah(ibv_ah* ah)
{
    delete static_cast<Ah*>(ah);
    return 0;
}

} // extern "C"
