// SPDX-License-Identifier: GPL-2.0-or-later
#include "driver.h"

#include <arpa/inet.h>
#include <infiniband/verbs.h>

#include <vector>

#include "../qp_masks.h"
#include "attacks.h"

namespace hostile {

using namespace rdma::pvrdma;

namespace {

constexpr uint32_t ring_pages = 4;
constexpr uint32_t all_rights = 15;

} // namespace

uint64_t Driver::page()
{
    uint64_t offset = _next_page++ * page_size % _ram.size();
    std::memset(_ram.data() + offset, 0, page_size);
    return _address + offset;
}

uint64_t Driver::page_after(uint64_t page) const
{
    return _address + (page - _address + page_size) % _ram.size();
}

uint64_t Driver::directory(std::span<const uint64_t> pages)
{
    uint64_t root = page();
    uint64_t table = page();
    put(root, table);
    for (size_t i = 0; i < pages.size(); ++i) {
        put(table + i * sizeof(uint64_t), pages[i]);
    }
    return root;
}

uint64_t Driver::directory(size_t count, uint64_t& first)
{
    std::vector<uint64_t> pages(count);
    for (uint64_t& entry : pages) {
        entry = page();
    }
    first = pages.front();
    return directory(pages);
}

SharedRegion Driver::shared_region()
{
    SharedRegion region{};
    _command_slot = region.cmd_slot_dma = page();
    _response_slot = region.resp_slot_dma = page();
    uint64_t first;
    region.async_ring = {ring_pages, 0, directory(ring_pages, first)};
    region.cq_ring = {ring_pages, 0, directory(ring_pages, first)};
    return region;
}

void Driver::activate(const SharedRegion& region, uint32_t interrupt_mask)
{
    uint64_t dsr = page();
    put(dsr, region);
    write(reg_dsr_low, static_cast<uint32_t>(dsr));
    write(reg_dsr_high, static_cast<uint32_t>(dsr >> 32));
    write(reg_imr, interrupt_mask);
    write(reg_ctl, ctl_activate);
}

void Driver::bind_address(const std::string& address)
{
    CmdCreateBind bind{.mtu = 4500, .index = 0, .gid_type = gid_type_v2};
    put_address(bind.gid, address);
    execute(cmd_create_bind, bind);
}

uint32_t Driver::create_pd()
{
    execute(cmd_create_pd, CmdCreatePd{});
    return response<RespHandle>().handle;
}

Driver::Cq Driver::create_cq()
{
    Cq cq;
    execute(cmd_create_cq,
            CmdCreateCq{.pdir_dma = directory(2, cq.state), .cqe = cq_entries, .nchunks = 2});
    cq.handle = response<RespCreateCq>().cq_handle;
    cq.entries = page_after(cq.state);
    return cq;
}

uint32_t Driver::create_mr(uint32_t pd, std::span<const uint64_t> pages)
{
    execute(cmd_create_mr, CmdCreateMr{.start = region_start,
                                       .length = pages.size() * page_size,
                                       .pdir_dma = directory(pages),
                                       .pd_handle = pd,
                                       .access_flags = all_rights,
                                       .nchunks = static_cast<uint32_t>(pages.size())});
    return response<RespCreateMr>().lkey;
}

Driver::Qp Driver::create_qp(uint32_t pd, uint32_t cq, uint8_t type)
{
    uint64_t first = 0;
    execute(cmd_create_qp, CmdCreateQp{.pdir_dma = directory(3, first),
                                       .pd_handle = pd,
                                       .send_cq_handle = cq,
                                       .recv_cq_handle = cq,
                                       .max_send_wr = queue_depth,
                                       .max_recv_wr = queue_depth,
                                       .max_send_sge = queue_sge,
                                       .max_recv_sge = queue_sge,
                                       .total_chunks = 3,
                                       .send_chunks = 1,
                                       .qp_type = type});
    auto resp = response<RespCreateQpV2>();
    return {resp.qp_handle, resp.qpn, first, page_after(first)};
}

void Driver::connect(const Qp& qp, uint8_t type, uint32_t peer, Patience patience)
{
    CmdModifyQp cmd{.qp_handle = qp.handle};
    QpAttr& attr = cmd.attrs;
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qkey = known_qkey;
    attr.qp_access_flags = all_rights;
    cmd.attr_mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                    (type == qpt_ud ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS);
    execute(cmd_modify_qp, cmd);
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = IBV_MTU_1024;
    attr.dest_qp_num = peer;
    attr.max_dest_rd_atomic = attr.max_rd_atomic = 4;
    attr.timeout = patience.timeout;
    attr.retry_cnt = attr.rnr_retry = patience.retries;
    attr.ah_attr.ah_flags = 1;
    attr.ah_attr.port_num = 1;
    put_address(attr.ah_attr.dgid, own_address);
    // PVRDMA's numbers of types are libibverbs'.
    cmd.attr_mask = static_cast<uint32_t>(rdma::test::rtr_mask(static_cast<ibv_qp_type>(type)));
    execute(cmd_modify_qp, cmd);
    attr.qp_state = IBV_QPS_RTS;
    cmd.attr_mask = static_cast<uint32_t>(rdma::test::rts_mask(static_cast<ibv_qp_type>(type)));
    execute(cmd_modify_qp, cmd);
}

bool Driver::poll(const Cq& cq, Cqe& out)
{
    auto state = get<RingState>(cq.state + ring_rx_offset);
    if (state.prod_tail == state.cons_head) {
        return false;
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    out = get<Cqe>(cq.entries + state.cons_head % cq_entries * sizeof(Cqe));
    uint32_t head = (state.cons_head + 1) % (2 * cq_entries);
    put(cq.state + ring_rx_offset + offsetof(RingState, cons_head), head);
    return true;
}

void Driver::put_address(uint8_t (&gid)[16], const std::string& address)
{
    gid[10] = gid[11] = 0xff;
    if (inet_pton(AF_INET, address.c_str(), gid + 12) != 1) {
        throw Error(address + " is no IPv4 address");
    }
}

} // namespace hostile
