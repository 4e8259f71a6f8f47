// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest_steps.h"

#include <infiniband/verbs.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace rdma::fuzz {

namespace {

constexpr uint32_t queue_wr = 16;
constexpr uint32_t queue_sge = 2;

} // namespace

PvrdmaConfig pick_config(FuzzedDataProvider& data)
{
    PvrdmaConfig config = default_config();
    uint8_t choice = data.ConsumeIntegral<uint8_t>();
    if (choice % 4 == 1) {
        // Tables that are full at once.
        config.max_qp = 6;
        config.max_cq = 2;
        config.max_srq = 2;
        config.max_mr = 5;
        config.max_pd = 2;
        config.max_uar = 4;
        config.gid_tbl_len = 2;
        config.max_qp_wr = 16;
        config.max_sge = 3;
        config.max_mr_size = 5 * page_size;
        config.max_qp_rd_atom = config.max_qp_init_rd_atom = 2;
    }
    if (choice % 8 == 2) {
        config.roce_version = 1;
        config.version = 17 + choice / 8 % 4;
    } else {
        config.version = choice % 16 < 12 ? 20 : 18 + choice / 16 % 2;
    }
    return config;
}

void GuestSteps::set_up_program(std::optional<uint8_t> peer_host, uint32_t peer_qpn)
{
    _m.bind_gid(0, _m.host());
    uint32_t pd = _m.create_pd();
    uint32_t cq;
    _cq_rings.push_back(_m.create_cq(64, cq));
    _pds.push_back(pd);
    _cqs.push_back(cq);
    auto mr = _m.register_memory(pd, _m.pages(region_pages), region_iova);
    _mrs.push_back(mr.mr_handle);
    _keys = {mr.lkey, mr.rkey};
    create_mr({.pd_handle = pd, .access_flags = 1, .flags = mr_flag_dma});
    create_mr({.pd_handle = pd, .access_flags = 15, .flags = mr_flag_frmr, .nchunks = 8});
    std::optional<uint32_t> srq;
    if (_data.ConsumeIntegralInRange(0, 3) == 0) {
        uint32_t handle;
        _srq_rings.push_back(_m.create_srq(pd, queue_wr, queue_sge, handle));
        _srqs.push_back(handle);
        srq = handle;
    }
    static constexpr uint8_t types[] = {qpt_rc, qpt_rc, qpt_uc, qpt_ud};
    uint8_t type = peer_host ? +qpt_rc : _data.PickValueInArray(types);
    GuestQp a = _m.create_qp(type, pd, cq, queue_wr, queue_sge, srq);
    GuestQp b = _m.create_qp(type, pd, cq, queue_wr, queue_sge, srq);
    _m.connect(a, type, peer_host.value_or(_m.host()), peer_host ? peer_qpn : b.qpn, 0);
    _m.connect(b, type, _m.host(), a.qpn, 0);
    _qps = {a, b};
    for (int i = 0; i < 4; ++i) {
        if (srq) {
            post_to_srq();
        } else {
            _m.post_recv(b, region_iova, 3000, mr.lkey);
        }
    }
}

void GuestSteps::access_bar()
{
    static constexpr unsigned sizes[] = {1, 2, 4, 4, 4, 4, 4, 8};
    unsigned bar = _data.ConsumeIntegralInRange(0u, 3u);
    unsigned size = _data.PickValueInArray(sizes);
    if (_data.ConsumeBool()) {
        // A register, mostly.
        uint64_t offset = _data.ConsumeBool() ? _data.ConsumeIntegralInRange(0u, 15u) * 4
                                              : _data.ConsumeIntegral<uint32_t>();
        _m.read_bar(bar, offset, size);
    } else {
        uint64_t offset = _data.ConsumeBool() ? _data.ConsumeIntegralInRange(0u, 15u) * 4
                                              : _data.ConsumeIntegral<uint16_t>();
        _m.write_bar(bar, offset, value(), size);
    }
}

void GuestSteps::ring_doorbell()
{
    _m.ring(_data.ConsumeIntegralInRange(0u, 300u), _data.ConsumeIntegralInRange(0u, 4095u),
            value());
}

void GuestSteps::write_shared_region()
{
    _m.bring_up();
    if (_data.ConsumeBool()) {
        // A field of the region itself.
        _m.put(_m.dsr + _data.ConsumeIntegralInRange<uint64_t>(0, sizeof(SharedRegion) / 4) * 4,
               value());
    } else {
        // A whole address: of the slots, or of a ring's directory.
        static constexpr uint64_t fields[] = {
            offsetof(SharedRegion, cmd_slot_dma), offsetof(SharedRegion, resp_slot_dma),
            offsetof(SharedRegion, async_ring) + offsetof(RingPageInfo, pdir_dma),
            offsetof(SharedRegion, cq_ring) + offsetof(RingPageInfo, pdir_dma)};
        _m.put(_m.dsr + _data.PickValueInArray(fields),
               _data.ConsumeBool() ? gpa() : a_directory());
    }
    if (_data.ConsumeBool()) {
        change_memory();
    }
    _m.write_register(reg_dsr_low, static_cast<uint32_t>(_m.dsr));
    _m.write_register(reg_dsr_high, static_cast<uint32_t>(_m.dsr >> 32));
    _m.write_register(reg_ctl, ctl_activate);
}

void GuestSteps::arm_and_drain()
{
    for (const Ring& ring : _cq_rings) {
        _m.drain(ring);
    }
    _m.drain_events();
    _m.ring(1, uar_cq_offset,
            (one_of(_cqs) & 0xffffff) | 1u << _data.ConsumeIntegralInRange(29, 31));
}

void GuestSteps::reset()
{
    if (_data.ConsumeBool()) {
        _m.reset();
    } else {
        _m.write_register(reg_ctl, ctl_reset);
    }
    if (_data.ConsumeBool()) {
        _m.bring_up();
    }
    forget_objects();
}

void GuestSteps::plug_again(std::optional<uint8_t> peer_host)
{
    auto on_irq = std::exchange(_m.on_irq, nullptr);
    auto on_send = std::exchange(_m.on_send, nullptr);
    _m.change_while_read({});
    _m.plug();
    forget_objects();
    _m.bring_up();
    set_up_program(peer_host);
    _m.on_irq = std::move(on_irq);
    _m.on_send = std::move(on_send);
}

void GuestSteps::forget_objects()
{
    for (auto* handles : {&_pds, &_cqs, &_mrs, &_srqs, &_contexts, &_keys}) {
        handles->clear();
    }
    _cq_rings.clear();
    _srq_rings.clear();
    _qps.clear();
}

void GuestSteps::expect_recovery()
{
    _m.reset();
    _m.map_memory(true);
    _m.change_while_read({});
    _m.bring_up();
    if (_m.read_register(reg_err) != 0 || !_m.execute(cmd_create_pd, CmdCreatePd{})) {
        abort();
    }
}

uint32_t GuestSteps::a_qp()
{
    std::vector<uint32_t> handles{1};
    std::ranges::transform(_qps, std::back_inserter(handles), &GuestQp::handle);
    return one_of(handles);
}

uint64_t GuestSteps::gpa()
{
    switch (_data.ConsumeIntegralInRange(0, 4)) {
    case 0:
        return Machine::ram + _data.ConsumeIntegralInRange<uint64_t>(0, Machine::ram_size - 1);
    case 1:
        return Machine::more_ram - _data.ConsumeIntegral<uint8_t>();
    case 2:
        return Machine::more_ram + Machine::more_ram_size - _data.ConsumeIntegral<uint8_t>();
    case 3:
        return Machine::rom;
    default:
        return _data.ConsumeIntegral<uint64_t>();
    }
}

uint64_t GuestSteps::a_directory()
{
    if (_data.ConsumeIntegralInRange(0, 7) == 0) {
        return gpa();
    }
    auto list = _m.pages(_data.ConsumeIntegralInRange<size_t>(1, 12));
    if (_data.ConsumeIntegralInRange(0, 7) == 0) {
        list[_data.ConsumeIntegralInRange<size_t>(0, list.size() - 1)] = gpa();
    }
    return _m.directory(list);
}

uint64_t GuestSteps::address()
{
    switch (_data.ConsumeIntegralInRange(0, 15)) {
    case 0:
        return _data.ConsumeIntegral<uint64_t>();
    case 1:
        return gpa(); // for a DMA MR
    default:
        return region_iova - 8 + _data.ConsumeIntegralInRange(0u, 0x4018u);
    }
}

void GuestSteps::write_memory()
{
    auto bytes = _data.ConsumeBytes<uint8_t>(_data.ConsumeIntegralInRange<size_t>(1, 64));
    // Near to what the device uses: its pages come first.
    uint64_t at = Machine::ram + _data.ConsumeIntegralInRange<uint64_t>(0, 64 * page_size);
    _m.poke(_data.ConsumeBool() ? at / page_size * page_size : at, bytes.data(), bytes.size());
}

const Ring* GuestSteps::a_ring()
{
    std::vector<const Ring*> rings;
    for (const auto* list : {&_cq_rings, &_srq_rings}) {
        for (const Ring& ring : *list) {
            rings.push_back(&ring);
        }
    }
    for (const GuestQp& qp : _qps) {
        for (const Ring* ring : {&qp.sq, &qp.rq}) {
            if (ring->slots > 0) {
                rings.push_back(ring);
            }
        }
    }
    return rings.empty() ? nullptr
                         : rings[_data.ConsumeIntegralInRange<size_t>(0, rings.size() - 1)];
}

void GuestSteps::lie_about_ring()
{
    if (const Ring* ring = a_ring()) {
        _m.put(ring->state + _data.ConsumeIntegralInRange(0u, 1u) * sizeof(uint32_t), value());
    } else {
        _m.lie_about_events(_data.ConsumeIntegralInRange(0u, 3u), value());
    }
    for (const GuestQp& qp : _qps) {
        _m.ring(1, uar_qp_offset, uar_qp_send | uar_qp_recv | qp.handle);
    }
}

// Raw bytes where an entry is, and the index that shows them.
void GuestSteps::write_ring_entry()
{
    const Ring* ring = a_ring();
    if (!ring || ring->pages.empty()) {
        return;
    }
    auto bytes = _data.ConsumeBytes<uint8_t>(_data.ConsumeIntegralInRange<size_t>(1, 128));
    bytes.resize(std::max<size_t>(bytes.size(), 1));
    _m.publish(*ring, bytes.data(), bytes.size());
    if (!_qps.empty()) {
        _m.ring(1, uar_qp_offset, uar_qp_send | uar_qp_recv | a_qp());
    }
}

void GuestSteps::ask()
{
    switch (_data.ConsumeIntegralInRange(0, 3)) {
    case 0:
        _m.execute(cmd_query_port,
                   CmdQueryPort{.port_num = _data.ConsumeIntegralInRange<uint8_t>(0, 2)});
        break;
    case 1:
        _m.execute(cmd_query_pkey,
                   CmdQueryPkey{.port_num = _data.ConsumeIntegralInRange<uint8_t>(0, 2),
                                .index = _data.ConsumeIntegralInRange<uint8_t>(0, 1)});
        break;
    default:
        raw_command();
    }
}

void GuestSteps::post_to_srq()
{
    if (_srq_rings.empty()) {
        return;
    }
    struct {
        RqWqeHdr hdr;
        Sge sge;
    } wqe{{1, 1, 0}, {address(), _data.ConsumeIntegralInRange(0u, 5000u), one_of(_keys)}};
    _m.publish(_srq_rings.front(), &wqe, sizeof(wqe));
    _m.ring(1, uar_srq_offset, uar_srq_recv | one_of(_srqs));
}

void GuestSteps::raw_command()
{
    auto bytes = _data.ConsumeBytes<uint8_t>(
        _data.ConsumeIntegralInRange<size_t>(0, sizeof(CmdModifyQp)));
    bytes.resize(std::max(bytes.size(), sizeof(CmdHdr)));
    _m.execute(bytes.data(), bytes.size(), _data.ConsumeIntegralInRange(0u, cmd_max + 2u));
}

void GuestSteps::create()
{
    switch (_data.ConsumeIntegralInRange(0, 6)) {
    case 0:
        if (_m.execute(cmd_create_pd, CmdCreatePd{.ctx_handle = one_of(_contexts)})) {
            _pds.push_back(_m.response<RespHandle>().handle);
        }
        break;
    case 1:
        if (_m.execute(cmd_create_uc, CmdCreateUc{.pfn = value()})) {
            _contexts.push_back(_m.response<RespHandle>().handle);
        }
        break;
    case 2:
        create_mr({.start = address(),
                   .length = value(),
                   .pdir_dma = a_directory(),
                   .pd_handle = one_of(_pds),
                   .access_flags = _data.ConsumeIntegralInRange(0u, 31u),
                   .flags = _data.ConsumeIntegralInRange(0u, 3u),
                   .nchunks = _data.ConsumeIntegralInRange(0u, 16u)});
        break;
    case 3: {
        CmdCreateCq cmd{.pdir_dma = a_directory(),
                        .ctx_handle = one_of(_contexts),
                        .cqe = _data.ConsumeBool() ? 64 : value(),
                        .nchunks = _data.ConsumeIntegralInRange(0u, 12u)};
        if (_m.execute(cmd_create_cq, cmd)) {
            _cqs.push_back(_m.response<RespCreateCq>().cq_handle);
        }
        break;
    }
    case 4: {
        CmdCreateSrq cmd{.pdir_dma = a_directory(),
                         .pd_handle = one_of(_pds),
                         .nchunks = _data.ConsumeIntegralInRange(0u, 12u),
                         .attrs = {.max_wr = size(), .max_sge = size(), .srq_limit = value()}};
        if (_m.execute(cmd_create_srq, cmd)) {
            _srqs.push_back(_m.response<RespHandle>().handle);
        }
        break;
    }
    case 5: {
        CmdCreateQp cmd{.pdir_dma = a_directory(),
                        .pd_handle = one_of(_pds),
                        .send_cq_handle = one_of(_cqs),
                        .recv_cq_handle = one_of(_cqs),
                        .srq_handle = one_of(_srqs),
                        .max_send_wr = size(),
                        .max_recv_wr = size(),
                        .max_send_sge = size(),
                        .max_recv_sge = size(),
                        .total_chunks = _data.ConsumeIntegralInRange<uint16_t>(0, 12),
                        .send_chunks = _data.ConsumeIntegralInRange<uint16_t>(0, 12),
                        .qp_type = _data.ConsumeIntegralInRange<uint8_t>(0, 5),
                        .is_srq = _data.ConsumeBool()};
        if (_m.execute(cmd_create_qp, cmd)) {
            auto resp = _m.response<RespCreateQpV2>();
            _qps.push_back({resp.qp_handle, resp.qpn, {}, {}});
        }
        break;
    }
    default:
        create_right();
    }
}

// What a driver would: an object that works.
void GuestSteps::create_right()
{
    if (_pds.empty()) {
        _pds.push_back(_m.create_pd());
        return;
    }
    switch (_data.ConsumeIntegralInRange(0, 3)) {
    case 0:
        if (_cq_rings.size() < 4) {
            uint32_t handle;
            _cq_rings.push_back(_m.create_cq(1u << _data.ConsumeIntegralInRange(0, 6), handle));
            _cqs.push_back(handle);
        }
        break;
    case 1:
        if (_srq_rings.size() < 4) {
            uint32_t handle;
            _srq_rings.push_back(_m.create_srq(one_of(_pds), queue_wr, queue_sge, handle));
            _srqs.push_back(handle);
        }
        break;
    default:
        if (_qps.size() < 8 && !_cqs.empty()) {
            static constexpr uint8_t types[] = {qpt_rc, qpt_rc, qpt_uc, qpt_ud, qpt_gsi};
            uint8_t type = _data.PickValueInArray(types);
            std::optional<uint32_t> srq;
            if (!_srqs.empty() && _data.ConsumeBool()) {
                srq = one_of(_srqs);
            }
            GuestQp qp = _m.create_qp(type, one_of(_pds), one_of(_cqs), queue_wr,
                                      _data.ConsumeIntegralInRange(1u, 16u), srq);
            if (_data.ConsumeBool()) {
                _m.connect(qp, type, _m.host(), _qps.empty() ? qp.qpn : _qps.front().qpn, 0);
            }
            _qps.push_back(qp);
        }
    }
}

void GuestSteps::create_mr(const CmdCreateMr& cmd)
{
    if (_m.execute(cmd_create_mr, cmd)) {
        auto resp = _m.response<RespCreateMr>();
        _mrs.push_back(resp.mr_handle);
        _keys.push_back(resp.lkey);
        _keys.push_back(resp.rkey);
    }
}

uint32_t GuestSteps::size()
{
    return _data.ConsumeIntegralInRange(0, 7) ? 1u << _data.ConsumeIntegralInRange(0, 5)
                                              : value();
}

void GuestSteps::use_object()
{
    switch (_data.ConsumeIntegralInRange(0, 6)) {
    case 0: {
        static constexpr Command commands[] = {cmd_destroy_pd,  cmd_destroy_mr, cmd_destroy_cq,
                                               cmd_destroy_srq, cmd_destroy_qp, cmd_destroy_uc};
        Command command = _data.PickValueInArray(commands);
        uint32_t handle = command == cmd_destroy_pd    ? one_of(_pds)
                          : command == cmd_destroy_mr  ? one_of(_mrs)
                          : command == cmd_destroy_cq  ? one_of(_cqs)
                          : command == cmd_destroy_srq ? one_of(_srqs)
                          : command == cmd_destroy_qp  ? a_qp()
                                                       : one_of(_contexts);
        _m.execute(command, CmdHandle{.handle = handle});
        break;
    }
    case 1:
        _m.execute(cmd_query_qp, CmdHandle{.handle = a_qp()});
        break;
    case 2:
        _m.execute(cmd_query_srq, CmdHandle{.handle = one_of(_srqs)});
        break;
    case 3:
        _m.execute(cmd_modify_srq,
                   CmdModifySrq{.srq_handle = one_of(_srqs),
                                .attr_mask = _data.ConsumeIntegralInRange(0u, 3u),
                                .attrs = {.max_wr = size(), .srq_limit = value()}});
        break;
    case 4: {
        CmdModifyQp cmd{};
        auto bytes = _data.ConsumeBytes<uint8_t>(sizeof(cmd.attrs));
        std::ranges::copy(bytes, reinterpret_cast<uint8_t*>(&cmd.attrs));
        cmd.qp_handle = a_qp();
        cmd.attr_mask = _data.ConsumeBool() ? _data.ConsumeIntegral<uint32_t>() : IBV_QP_STATE;
        cmd.attrs.qp_state = _data.ConsumeIntegralInRange(0u, 7u);
        _m.execute(cmd_modify_qp, cmd);
        break;
    }
    case 5: {
        CmdCreateBind bind{.mtu = value(), .vlan = value(), .index = size()};
        auto bytes = _data.ConsumeBytes<uint8_t>(sizeof(bind.gid));
        std::ranges::copy(bytes, bind.gid);
        bind.gid_type = _data.ConsumeIntegralInRange<uint8_t>(0, 3);
        _m.execute(cmd_create_bind, bind);
        break;
    }
    default:
        _m.execute(cmd_destroy_bind, CmdDestroyBind{.index = size()});
    }
}

// A send request, right but for what the input says, or a receive.
void GuestSteps::post()
{
    if (_qps.empty()) {
        return;
    }
    const GuestQp& qp = _qps[_data.ConsumeIntegralInRange<size_t>(0, _qps.size() - 1)];
    if (qp.sq.slots == 0) {
        _m.ring(1, uar_qp_offset, uar_qp_send | uar_qp_recv | qp.handle);
        return;
    }
    if (_data.ConsumeIntegralInRange(0, 3) == 0) {
        _m.post_recv(qp, address(), value(), one_of(_keys));
        return;
    }
    constexpr size_t max_sge = 4;
    struct {
        SqWqeHdr hdr;
        Sge sge[max_sge];
    } wqe{};
    wqe.hdr.wr_id = 2;
    wqe.hdr.num_sge =
        _data.ConsumeIntegralInRange(0, 31) ? _data.ConsumeIntegralInRange(0u, 2u) : value();
    wqe.hdr.opcode = _data.ConsumeIntegralInRange<uint32_t>(0, wr_reg_sig_mr + 1);
    wqe.hdr.send_flags = _data.ConsumeIntegralInRange(0u, 31u);
    wqe.hdr.ex = one_of(_keys);
    switch (wqe.hdr.opcode) {
    case wr_cmp_swap:
    case wr_fetch_add:
        wqe.hdr.wr.atomic = {address(), value(), value(), one_of(_keys), 0};
        break;
    case wr_fast_reg_mr:
        wqe.hdr.wr.fast_reg = {address(),
                               a_directory(),
                               _data.ConsumeIntegralInRange(0, 7) ? 12u : value(),
                               size(),
                               value(),
                               _data.ConsumeIntegralInRange(0u, 31u),
                               one_of(_keys),
                               0};
        break;
    case wr_send:
    case wr_send_imm:
        if (_data.ConsumeBool()) {
            Av av = Machine::address_vector(_data.ConsumeIntegralInRange<uint8_t>(0, 2),
                                            one_of(_pds));
            av.gid_index = _data.ConsumeIntegralInRange<uint8_t>(0, 31) / 16;
            wqe.hdr.wr.ud = {_qps.back().qpn, 0x11111111, av};
        }
        break;
    default:
        wqe.hdr.wr.rdma = {address(), one_of(_keys), 0};
    }
    for (Sge& sge : wqe.sge) {
        uint32_t length = _data.ConsumeIntegralInRange(0, 15)
                              ? _data.ConsumeIntegralInRange(0u, 5000u)
                              : value();
        sge = {address(), length, one_of(_keys)};
    }
    _m.publish(qp.sq, &wqe, sizeof(wqe));
    _m.ring(1, uar_qp_offset, uar_qp_send | qp.handle);
}

} // namespace rdma::fuzz
