// SPDX-License-Identifier: GPL-2.0-or-later
//
// A guest of a whole PVRDMA device behind its C boundary, engine included: RAM,
// a driver that does as Linux's does, and a host whose network hands each frame
// to the peer at once. Time stands still unless the test moves it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "pvrdma_abi.h"
#include "queue_abi.h"
#include "pvrdma.h"
#include "ram.h"

namespace rdma::test {

using namespace rdma::pvrdma;

// Pages of a queue: a state page and what follows it, and their directory.
struct QueuePages {
    uint64_t state;
    uint64_t directory;
    uint32_t count;
};

struct QueueShape {
    uint8_t type = qpt_rc;
    uint32_t send_wr = 64;
    uint32_t recv_wr = 64;
    uint32_t sge = 1;

    uint32_t send_entry() const { return std::bit_ceil(uint32_t{sizeof(SqWqeHdr)} + 16 * sge); }
    uint32_t recv_entry() const { return std::bit_ceil(uint32_t{sizeof(RqWqeHdr)} + 16 * sge); }
    uint32_t send_pages() const { return (send_wr * send_entry() + 4095) / 4096; }
    uint32_t recv_pages() const { return (recv_wr * recv_entry() + 4095) / 4096; }
};

struct DeviceQp {
    uint32_t handle;
    uint32_t qpn;
    QueuePages pages;
    QueueShape shape;
};
struct DeviceCq {
    uint32_t handle;
    QueuePages pages;
    uint32_t slots;
};
struct DeviceMr {
    uint32_t handle;
    uint32_t lkey;
    uint32_t rkey;
};

class WholeDevice {
public:
    // number: the last part of its IP and MAC addresses. port: of the verbs backend; null: the
    // engine.
    explicit WholeDevice(uint8_t number, uint64_t ram_size = 64 << 20,
                         const PvrdmaConfig& config = defaults(),
                         const RdmaHostPortConfig* port = nullptr)
        : ram(ram_size), _number(number)
    {
        char* error = nullptr;
        RdmaBackendConfig backend{.name = port ? "verbs" : "roce",
                                  .port = port ? *port : RdmaHostPortConfig{}};
        _device = pvrdma_device_create(&config, &backend, &ops, this, &error);
        if (!_device) {
            throw std::runtime_error(error);
        }
        RdmaMemoryRegion region = ram.region();
        rdma_device_set_memory(_device, &region, 1);
    }
    ~WholeDevice() { rdma_device_destroy(_device); }
    WholeDevice(const WholeDevice&) = delete;
    WholeDevice& operator=(const WholeDevice&) = delete;

    static PvrdmaConfig defaults()
    {
        PvrdmaConfig config;
        pvrdma_config_default(&config);
        return config;
    }
    // Frames of each go to the other.
    static void join(WholeDevice& a, WholeDevice& b)
    {
        a._peer = &b;
        b._peer = &a;
    }

    // The driver's bring-up, with one GID: 10.0.0.number.
    void bring_up()
    {
        SharedRegion region{};
        region.cmd_slot_dma = _command_slot = ram.pages(1);
        region.resp_slot_dma = _response_slot = ram.pages(1);
        region.async_ring = {4, 0, ram.directory(_events = ram.pages(4), 4)};
        region.cq_ring = {4, 0, ram.directory(ram.pages(4), 4)};
        uint64_t dsr = ram.pages(1);
        ram.at<SharedRegion>(dsr) = region;
        write(reg_dsr_low, static_cast<uint32_t>(dsr));
        write(reg_dsr_high, static_cast<uint32_t>(dsr >> 32));
        write(reg_imr, 0);
        write(reg_ctl, ctl_activate);
        caps = ram.at<SharedRegion>(dsr).caps;
        CmdCreateBind bind{.mtu = 4500, .gid_type = gid_type_v2};
        std::ranges::copy(gid_of(_number).raw, bind.gid);
        require(execute(cmd_create_bind, bind), "CREATE_BIND");
    }

    // Executes a command: 0 or the errno it has failed with.
    template <typename Cmd>
    int execute(Command number, Cmd cmd)
    {
        cmd.hdr = {0, number, 0};
        ram.at<Cmd>(_command_slot) = cmd;
        write(reg_request, 0);
        int error = static_cast<int>(rdma_device_bar_read(_device, PVRDMA_BAR_REGS, reg_err, 4));
        // The failure of MODIFY_QP is in the response alone.
        return error != 0 ? error : ram.at<RespHdr>(_response_slot).err;
    }
    // What make() makes of the response, or the errno.
    template <typename Resp, typename Cmd, typename Make>
    auto ask(Command number, const Cmd& cmd, Make&& make) -> Result<decltype(make(Resp{}))>
    {
        int error = execute(number, cmd);
        if (error != 0) {
            return std::unexpected(error);
        }
        return make(ram.at<Resp>(_response_slot));
    }
    int destroy(Command number, uint32_t handle)
    {
        return execute(number, CmdHandle{.hdr = {}, .handle = handle, .reserved = 0});
    }

    Result<uint32_t> create_pd()
    {
        return ask<RespHandle>(cmd_create_pd, CmdCreatePd{}, handle_of);
    }
    QueuePages queue_pages(uint32_t entry_pages)
    {
        uint64_t first = ram.pages(1 + entry_pages);
        return {first, ram.directory(first, 1 + entry_pages), 1 + entry_pages};
    }
    static uint32_t cq_pages(uint32_t slots) { return (slots * 64 + 4095) / 4096; }
    Result<DeviceCq> create_cq(uint32_t slots, const QueuePages& pages)
    {
        CmdCreateCq cmd{.pdir_dma = pages.directory, .cqe = slots, .nchunks = pages.count};
        return ask<RespCreateCq>(cmd_create_cq, cmd, [&](const RespCreateCq& resp) {
            return DeviceCq{resp.cq_handle, pages, slots};
        });
    }
    Result<uint32_t> create_srq(uint32_t pd, uint32_t slots, const QueuePages& pages)
    {
        CmdCreateSrq cmd{.pdir_dma = pages.directory,
                         .pd_handle = pd,
                         .nchunks = pages.count,
                         .attrs = {.max_wr = slots, .max_sge = 1}};
        return ask<RespHandle>(cmd_create_srq, cmd, handle_of);
    }
    Result<DeviceQp> create_qp(const QueueShape& shape, uint32_t pd, uint32_t cq,
                               const QueuePages& pages)
    {
        CmdCreateQp cmd{.pdir_dma = pages.directory,
                        .pd_handle = pd,
                        .send_cq_handle = cq,
                        .recv_cq_handle = cq,
                        .max_send_wr = shape.send_wr,
                        .max_recv_wr = shape.recv_wr,
                        .max_send_sge = shape.sge,
                        .max_recv_sge = shape.sge,
                        .total_chunks = static_cast<uint16_t>(pages.count),
                        .send_chunks = static_cast<uint16_t>(shape.send_pages()),
                        .qp_type = shape.type};
        return ask<RespCreateQpV2>(cmd_create_qp, cmd, [&](const RespCreateQpV2& resp) {
            return DeviceQp{resp.qp_handle, resp.qpn, pages, shape};
        });
    }
    QueuePages qp_pages(const QueueShape& shape)
    {
        return queue_pages(shape.send_pages() + shape.recv_pages());
    }
    // directory: of the pages that [iova, iova + length) touches.
    Result<DeviceMr> register_memory(uint32_t pd, uint64_t iova, uint64_t length,
                                     uint64_t directory)
    {
        auto pages = (iova % page_size + length + page_size - 1) / page_size;
        CmdCreateMr cmd{.start = iova,
                        .length = length,
                        .pdir_dma = directory,
                        .pd_handle = pd,
                        .access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                        IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC,
                        .nchunks = static_cast<uint32_t>(pages)};
        return ask<RespCreateMr>(cmd_create_mr, cmd, [](const RespCreateMr& resp) {
            return DeviceMr{resp.mr_handle, resp.lkey, resp.rkey};
        });
    }
    // size bytes of RAM at gpa, which is also their IOVA.
    DeviceMr register_ram(uint32_t pd, uint64_t gpa, uint64_t size)
    {
        return register_memory(pd, gpa, size, ram.directory(gpa, size / page_size)).value();
    }

    // Brings an RC QP to RTS, towards a QP of the device of that number.
    void connect(const DeviceQp& qp, uint8_t peer, uint32_t peer_qpn)
    {
        CmdModifyQp cmd{.qp_handle = qp.handle};
        QpAttr& attr = cmd.attrs;
        auto modify = [&](ibv_qp_state state, int mask) {
            attr.qp_state = state;
            cmd.attr_mask = static_cast<uint32_t>(IBV_QP_STATE | mask);
            require(execute(cmd_modify_qp, cmd), "MODIFY_QP");
        };
        attr.port_num = 1;
        attr.qp_access_flags =
            IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
        attr.path_mtu = IBV_MTU_4096;
        attr.dest_qp_num = peer_qpn;
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 16;
        attr.min_rnr_timer = 1;
        attr.timeout = 14;
        attr.retry_cnt = attr.rnr_retry = 7;
        attr.ah_attr.ah_flags = 1;
        attr.ah_attr.port_num = 1;
        attr.ah_attr.hop_limit = 64;
        std::ranges::copy(gid_of(peer).raw, attr.ah_attr.dgid);
        std::ranges::copy(mac_of(peer), attr.ah_attr.dmac);
        modify(IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
        modify(IBV_QPS_RTR, IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
        modify(IBV_QPS_RTS, IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                IBV_QP_MAX_QP_RD_ATOMIC);
    }

    // Puts a request of one piece into the send queue, without a doorbell.
    void post_send(const DeviceQp& qp, WrOpcode opcode, uint64_t wr_id, uint64_t address,
                   uint32_t length, uint32_t lkey, uint64_t remote = 0, uint32_t rkey = 0)
    {
        struct Wqe {
            SqWqeHdr hdr;
            Sge sge;
        };
        RingState& state = ram.at<RingState>(qp.pages.state + ring_tx_offset);
        uint64_t offset =
            uint64_t{state.prod_tail & (qp.shape.send_wr - 1)} * qp.shape.send_entry();
        Wqe& wqe = ram.at<Wqe>(qp.pages.state + page_size + offset);
        wqe.hdr.wr_id = wr_id;
        wqe.hdr.num_sge = 1;
        wqe.hdr.opcode = opcode;
        wqe.hdr.send_flags = IBV_SEND_SIGNALED;
        wqe.hdr.wr.rdma = {remote, rkey, 0};
        wqe.sge = {address, length, lkey};
        state.prod_tail = (state.prod_tail + 1) & (2 * qp.shape.send_wr - 1);
    }
    void post_recv(const DeviceQp& qp, uint64_t wr_id, uint64_t address, uint32_t length,
                   uint32_t lkey)
    {
        struct Wqe {
            RqWqeHdr hdr;
            Sge sge;
        };
        RingState& state = ram.at<RingState>(qp.pages.state + ring_rx_offset);
        uint64_t offset =
            uint64_t{state.prod_tail & (qp.shape.recv_wr - 1)} * qp.shape.recv_entry();
        uint64_t first = qp.pages.state + (1 + qp.shape.send_pages()) * page_size;
        ram.at<Wqe>(first + offset) = {{wr_id, 1, length}, {address, length, lkey}};
        state.prod_tail = (state.prod_tail + 1) & (2 * qp.shape.recv_wr - 1);
    }
    void ring_send(const DeviceQp& qp) { ring(uar_qp_offset, uar_qp_send | qp.handle); }
    void ring_recv(const DeviceQp& qp) { ring(uar_qp_offset, uar_qp_recv | qp.handle); }

    // The next completion; null where there is none. Valid until the next call.
    const Cqe* poll(const DeviceCq& cq)
    {
        RingState& state = ram.at<RingState>(cq.pages.state + ring_rx_offset);
        if (state.prod_tail == state.cons_head) {
            return nullptr;
        }
        uint64_t slot = state.cons_head & (cq.slots - 1);
        state.cons_head = (state.cons_head + 1) & (2 * cq.slots - 1);
        return &ram.at<Cqe>(cq.pages.state + page_size + slot * sizeof(Cqe));
    }

    // Migration.
    void stop() { rdma_device_stop(_device, true); }
    void start() { rdma_device_start(_device); }
    std::vector<uint8_t> save()
    {
        std::vector<uint8_t> state;
        auto put = [](void* opaque, const uint8_t* bytes, size_t size) {
            static_cast<std::vector<uint8_t>*>(opaque)->assign(bytes, bytes + size);
        };
        char* error = nullptr;
        if (!rdma_device_save(_device, put, &state, &error)) {
            std::string message = error;
            std::free(error);
            throw std::runtime_error(message);
        }
        return state;
    }
    // Nothing, or what is wrong with the state.
    std::string load(std::span<const uint8_t> state)
    {
        char* error = nullptr;
        if (rdma_device_load(_device, state.data(), state.size(), &error)) {
            return {};
        }
        std::string message = error;
        std::free(error);
        return message;
    }

    // Lets the device's timer fire if it is due. False: it is not.
    bool run_timer()
    {
        if (_deadline > now) {
            return false;
        }
        _deadline = INT64_MAX;
        rdma_device_timer(_device);
        return true;
    }

    // Asynchronous events that the device has written and nobody has taken.
    uint32_t events()
    {
        RingState& state = ram.at<RingState>(_events + ring_rx_offset);
        return state.prod_tail - state.cons_head;
    }

    // The newest of them.
    EventEntry last_event()
    {
        uint64_t entry = (ram.at<RingState>(_events + ring_rx_offset).prod_tail - 1) % 512;
        return ram.at<EventEntry>(_events + page_size + entry * sizeof(EventEntry));
    }

    void reset() { rdma_device_reset(_device); }
    RdmaDevice* handle() { return _device; }

    Ram ram;
    DeviceCaps caps{}; // as the device wrote them at bring-up
    int64_t now = 0;   // nanoseconds

private:
    static Mac mac_of(uint8_t number) { return {0x52, 0x54, 0, 0, 0, number}; }
    static ibv_gid gid_of(uint8_t number)
    {
        ibv_gid gid{};
        gid.raw[10] = gid.raw[11] = 0xff;
        gid.raw[12] = 10;
        gid.raw[15] = number;
        return gid;
    }
    static void require(int error, const char* what)
    {
        if (error != 0) {
            throw std::runtime_error(std::string(what) + ": errno " + std::to_string(error));
        }
    }
    static uint32_t handle_of(const RespHandle& resp) { return resp.handle; }
    void write(uint32_t offset, uint32_t value)
    {
        rdma_device_bar_write(_device, PVRDMA_BAR_REGS, offset, value, 4);
    }
    void ring(uint32_t offset, uint32_t value)
    {
        rdma_device_bar_write(_device, PVRDMA_BAR_UAR, page_size + offset, value, 4);
    }
    static WholeDevice& self(void* opaque) { return *static_cast<WholeDevice*>(opaque); }

    static const RdmaHostOps ops;

    uint8_t _number;
    RdmaDevice* _device = nullptr;
    WholeDevice* _peer = nullptr;
    int64_t _deadline = INT64_MAX;
    uint64_t _command_slot = 0;
    uint64_t _response_slot = 0;
    uint64_t _events = 0;
};

inline const RdmaHostOps WholeDevice::ops{
    .now = [](void* opaque) { return self(opaque).now; },
    .set_timer = [](void* opaque, int64_t deadline) { self(opaque)._deadline = deadline; },
    .send_packet =
        [](void* opaque, const uint8_t* frame, size_t size) {
            if (WholeDevice* peer = self(opaque)._peer) {
                rdma_device_receive(peer->_device, frame, size);
            }
            return true;
        },
    .raise_irq = [](void*, unsigned) {},
    .set_intx = [](void*, bool) {},
    .mark_dirty = [](void*, uint64_t, uint64_t) {},
    .nic_info =
        [](void* opaque, RdmaNicInfo* info) {
            std::ranges::copy(mac_of(self(opaque)._number), info->mac);
            info->mtu = 4500;
            info->link_up = true;
        },
    .poll_idle = [](void*) {},
    .poll_end = [](void*) {},
    .log = [](void*, int, const char*) {},
};

} // namespace rdma::test
