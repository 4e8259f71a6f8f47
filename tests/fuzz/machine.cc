// SPDX-License-Identifier: GPL-2.0-or-later
#include "machine.h"

#include <infiniband/verbs.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "../qp_masks.h"

namespace rdma::fuzz {

namespace {

uint32_t recv_entry_size(uint32_t sge)
{
    return std::bit_ceil(static_cast<uint32_t>(sizeof(RqWqeHdr) + sge * sizeof(Sge)));
}

} // namespace

PvrdmaConfig default_config()
{
    PvrdmaConfig config;
    pvrdma_config_default(&config);
    return config;
}

Machine::Machine(uint8_t host, const PvrdmaConfig& config)
    : DeviceMachine(host), _config(config), _has_qp_handles(config.version >= 20),
      _gid_type(config.roce_version == 1 ? gid_type_v1 : gid_type_v2)
{
    plug();
}

Machine::~Machine()
{
    unplug();
}

RdmaDevice* Machine::create_device(const RdmaHostOps& host_ops, void* opaque)
{
    char* error = nullptr;
    return pvrdma_device_create(&_config, nullptr, &host_ops, opaque, &error);
}

uint64_t Machine::directory(std::span<const uint64_t> list)
{
    uint64_t root = page();
    uint64_t table = page();
    put(root, table);
    for (size_t i = 0; i < std::min<size_t>(list.size(), entries_per_table); ++i) {
        put(table + i * 8, list[i]);
    }
    return root;
}

void Machine::write_register(uint32_t offset, uint32_t value)
{
    write_bar(PVRDMA_BAR_REGS, offset, value);
}

uint32_t Machine::read_register(uint32_t offset)
{
    return static_cast<uint32_t>(read_bar(PVRDMA_BAR_REGS, offset));
}

void Machine::ring(uint32_t uar_page, uint32_t offset, uint32_t value)
{
    write_bar(PVRDMA_BAR_UAR, uint64_t{uar_page} * page_size + offset, value);
}

void Machine::bring_up()
{
    dsr = page();
    command_slot = page();
    response_slot = page();
    SharedRegion region{};
    region.cmd_slot_dma = command_slot;
    region.resp_slot_dma = response_slot;
    auto async_pages = pages(4);
    auto cq_pages = pages(4);
    region.async_ring = {4, 0, directory(async_pages)};
    region.cq_ring = {4, 0, directory(cq_pages)};
    _event_rings[0] = async_pages[0] + ring_rx_offset;
    _event_rings[1] = cq_pages[0] + ring_rx_offset;
    put(dsr, region);
    write_register(reg_dsr_low, static_cast<uint32_t>(dsr));
    write_register(reg_dsr_high, static_cast<uint32_t>(dsr >> 32));
    write_register(reg_imr, 0);
    write_register(reg_ctl, ctl_activate);
}

bool Machine::execute(const void* command, size_t size, uint32_t number)
{
    CmdHdr hdr{0, number, 0};
    poke(command_slot, command, size);
    put(command_slot, hdr);
    write_register(reg_request, 0);
    return read_register(reg_err) == 0;
}

uint32_t Machine::create_pd()
{
    execute(cmd_create_pd, CmdCreatePd{});
    return response<RespHandle>().handle;
}

Ring Machine::create_cq(uint32_t entries, uint32_t& handle)
{
    auto list = pages(1 + (entries * sizeof(Cqe) + page_size - 1) / page_size);
    execute(cmd_create_cq, CmdCreateCq{.pdir_dma = directory(list),
                                       .cqe = entries,
                                       .nchunks = static_cast<uint32_t>(list.size())});
    handle = response<RespCreateCq>().cq_handle;
    return {list[0] + ring_rx_offset, {list.begin() + 1, list.end()}, sizeof(Cqe), entries};
}

RespCreateMr Machine::register_memory(uint32_t pd, std::span<const uint64_t> list, uint64_t iova)
{
    if (!execute(cmd_create_mr, CmdCreateMr{.start = iova,
                                            .length = list.size() * page_size - iova % page_size,
                                            .pdir_dma = directory(list),
                                            .pd_handle = pd,
                                            .access_flags = 15,
                                            .nchunks = static_cast<uint32_t>(list.size())}) &&
        is_plugged()) {
        broken("CREATE_MR");
    }
    return response<RespCreateMr>();
}

GuestQp Machine::create_qp(uint8_t type, uint32_t pd, uint32_t cq, uint32_t wr, uint32_t sge,
                           std::optional<uint32_t> srq)
{
    uint32_t send_size = std::bit_ceil(static_cast<uint32_t>(sizeof(SqWqeHdr) + sge * sizeof(Sge)));
    uint32_t recv_size = recv_entry_size(sge);
    size_t send_pages = (wr * send_size + page_size - 1) / page_size;
    size_t recv_pages = srq ? 0 : (wr * recv_size + page_size - 1) / page_size;
    auto list = pages(1 + send_pages + recv_pages);
    execute(cmd_create_qp, CmdCreateQp{.pdir_dma = directory(list),
                                       .pd_handle = pd,
                                       .send_cq_handle = cq,
                                       .recv_cq_handle = cq,
                                       .srq_handle = srq.value_or(0),
                                       .max_send_wr = wr,
                                       .max_recv_wr = wr,
                                       .max_send_sge = sge,
                                       .max_recv_sge = sge,
                                       .total_chunks = static_cast<uint16_t>(list.size()),
                                       .send_chunks = static_cast<uint16_t>(send_pages),
                                       .qp_type = type,
                                       .is_srq = srq.has_value()});
    auto resp = response<RespCreateQpV2>();
    auto first_recv = list.begin() + 1 + static_cast<std::ptrdiff_t>(send_pages);
    return {_has_qp_handles ? resp.qp_handle : resp.qpn,
            resp.qpn,
            {list[0] + ring_tx_offset, {list.begin() + 1, first_recv}, send_size, wr},
            {list[0] + ring_rx_offset, {first_recv, list.end()}, recv_size, srq ? 0 : wr}};
}

Ring Machine::create_srq(uint32_t pd, uint32_t wr, uint32_t sge, uint32_t& handle)
{
    uint32_t size = recv_entry_size(sge);
    auto list = pages(1 + (wr * size + page_size - 1) / page_size);
    execute(cmd_create_srq, CmdCreateSrq{.pdir_dma = directory(list),
                                         .pd_handle = pd,
                                         .nchunks = static_cast<uint32_t>(list.size()),
                                         .attrs = {.max_wr = wr, .max_sge = sge}});
    handle = response<RespHandle>().handle;
    return {list[0] + ring_rx_offset, {list.begin() + 1, list.end()}, size, wr};
}

void Machine::bind_gid(uint32_t index, uint8_t host_number)
{
    CmdCreateBind bind{.mtu = 4500, .index = index, .gid_type = _gid_type};
    bind.gid[10] = bind.gid[11] = 0xff;
    bind.gid[12] = 10;
    bind.gid[15] = host_number;
    execute(cmd_create_bind, bind);
}

void Machine::connect(const GuestQp& qp, uint8_t type, uint8_t host_number, uint32_t dest_qpn,
                      uint32_t psn, uint8_t retries)
{
    CmdModifyQp cmd{.qp_handle = qp.handle};
    QpAttr& attr = cmd.attrs;
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qkey = 0x11111111;
    attr.qp_access_flags =
        IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
    cmd.attr_mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                    (type == qpt_ud || type == qpt_gsi ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS);
    execute(cmd_modify_qp, cmd);
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = IBV_MTU_256;
    attr.dest_qp_num = dest_qpn;
    attr.rq_psn = attr.sq_psn = psn;
    attr.max_dest_rd_atomic = attr.max_rd_atomic = 4;
    attr.min_rnr_timer = 1;
    attr.timeout = 8;
    attr.retry_cnt = attr.rnr_retry = retries;
    attr.ah_attr.ah_flags = 1;
    attr.ah_attr.port_num = 1;
    attr.ah_attr.hop_limit = 64;
    put_address(host_number, attr.ah_attr.dgid, attr.ah_attr.dmac);
    // PVRDMA's numbers of types are libibverbs'.
    cmd.attr_mask = static_cast<uint32_t>(test::rtr_mask(static_cast<ibv_qp_type>(type)));
    execute(cmd_modify_qp, cmd);
    attr.qp_state = IBV_QPS_RTS;
    cmd.attr_mask = static_cast<uint32_t>(test::rts_mask(static_cast<ibv_qp_type>(type)));
    execute(cmd_modify_qp, cmd);
}

void Machine::publish(const Ring& ring, const void* entry, size_t size)
{
    auto tail = get<uint32_t>(ring.state);
    uint64_t offset = uint64_t{tail & (ring.slots - 1)} * ring.entry_size;
    poke(ring.pages[offset / page_size] + offset % page_size, entry,
         std::min<size_t>(size, ring.entry_size));
    put(ring.state, (tail + 1) & (2 * ring.slots - 1));
}

void Machine::post_recv(const GuestQp& qp, uint64_t address, uint32_t length, uint32_t lkey,
                        uint64_t wr_id)
{
    if (qp.rq.slots == 0) {
        return; // an SRQ's
    }
    struct {
        RqWqeHdr hdr;
        Sge sge;
    } wqe{{wr_id, 1, length}, {address, length, lkey}};
    publish(qp.rq, &wqe, sizeof(wqe));
    ring(1, uar_qp_offset, uar_qp_recv | qp.handle);
}

std::optional<Cqe> Machine::poll(const Ring& cq)
{
    auto state = get<RingState>(cq.state);
    if (state.prod_tail == state.cons_head) {
        return std::nullopt;
    }
    uint64_t offset = uint64_t{state.cons_head & (cq.slots - 1)} * cq.entry_size;
    auto cqe = get<Cqe>(cq.pages[offset / page_size] + offset % page_size);
    put(cq.state + sizeof(uint32_t), (state.cons_head + 1) & (2 * cq.slots - 1));
    return cqe;
}

void Machine::drain(const Ring& ring)
{
    put(ring.state + sizeof(uint32_t), get<uint32_t>(ring.state));
}

void Machine::drain_events()
{
    for (uint64_t state : _event_rings) {
        put(state + sizeof(uint32_t), get<uint32_t>(state));
    }
}

void Machine::lie_about_events(uint32_t index, uint32_t value)
{
    put(_event_rings[index / 2] + index % 2 * sizeof(uint32_t), value);
}

Av Machine::address_vector(uint8_t host_number, uint32_t pd)
{
    Av av{};
    av.port_pd = 1u << 24 | pd;
    av.hop_limit = 64;
    put_address(host_number, av.dgid, av.dmac);
    return av;
}

} // namespace rdma::fuzz
