// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a guest may do: registers, doorbells, the shared region, commands and
// rings, mostly near to what a driver does, with memory that changes between
// two reads of the device, that is taken away, and that is written everywhere.
#include <fuzzer/FuzzedDataProvider.h>
#include <infiniband/verbs.h>

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace rdma::fuzz {
namespace {

constexpr uint8_t own_host = 1;
constexpr uint64_t iova = 0x7f00'0000'0ff0;

class DeviceFuzz {
public:
    explicit DeviceFuzz(FuzzedDataProvider& data) : _data(data), _m(data.ConsumeBool())
    {
        if (_data.ConsumeIntegralInRange(0, 7) == 0) {
            return; // as after power-on
        }
        _m.bring_up();
        if (_data.ConsumeIntegralInRange(0, 7) == 0) {
            return;
        }
        // A program at work: two QPs of one device connected to each other.
        _m.bind_gid(0, own_host);
        uint32_t pd = _m.create_pd();
        uint32_t cq;
        _cq_rings.push_back(_m.create_cq(64, cq));
        _pds.push_back(pd);
        _cqs.push_back(cq);
        auto mr = _m.register_memory(pd, _m.pages(4), iova);
        _mrs.push_back(mr.mr_handle);
        _keys = {mr.lkey, mr.rkey};
        create_mr({.pd_handle = pd, .access_flags = 1, .flags = mr_flag_dma});
        create_mr({.pd_handle = pd, .access_flags = 15, .flags = mr_flag_frmr, .nchunks = 8});
        static constexpr uint8_t types[] = {qpt_rc, qpt_uc, qpt_ud};
        uint8_t type = _data.PickValueInArray(types);
        GuestQp a = _m.create_qp(type, pd, cq);
        GuestQp b = _m.create_qp(type, pd, cq);
        _m.connect(a, type, own_host, b.qpn, 0);
        _m.connect(b, type, own_host, a.qpn, 0);
        _qps = {a, b};
        for (int i = 0; i < 4; ++i) {
            _m.post_recv(b, iova, 3000, mr.lkey);
        }
    }

    void run()
    {
        while (_data.remaining_bytes() > 0) {
            step();
        }
        // Whatever it was: reset brings the device back.
        rdma_device_reset(_m.device());
        _m.map_memory(true);
        _m.change_while_read({});
        _m.bring_up();
        if (_m.read_register(reg_err) != 0 || !_m.execute(cmd_create_pd, CmdCreatePd{})) {
            abort();
        }
    }

private:
    void step()
    {
        switch (_data.ConsumeIntegralInRange(0, 19)) {
        case 0:
            rdma_device_bar_write(_m.device(), RDMA_BAR_REGS, _data.ConsumeIntegral<uint16_t>(),
                                  value(), _data.PickValueInArray({1u, 2u, 4u, 8u}));
            break;
        case 1:
            rdma_device_bar_read(_m.device(), _data.ConsumeIntegralInRange(0u, 3u),
                                 _data.ConsumeIntegral<uint32_t>(),
                                 _data.PickValueInArray({1u, 2u, 4u, 8u}));
            break;
        case 2:
            _m.ring(_data.ConsumeIntegralInRange(0u, 300u), _data.ConsumeIntegralInRange(0u, 4095u),
                    value());
            break;
        case 3:
            write_memory();
            break;
        case 4:
            _m.map_memory(_data.ConsumeBool());
            break;
        case 5:
            _data.ConsumeBool() ? change_memory() : lie_about_ring();
            break;
        case 6:
            _m.advance(_data.ConsumeIntegralInRange<int64_t>(0, 20'000'000));
            break;
        case 7:
            reset();
            break;
        case 8:
            for (const Ring& ring : _cq_rings) {
                _m.drain(ring);
            }
            _m.drain_events();
            _m.ring(1, uar_cq_offset,
                    (one_of(_cqs) & 0xffffff) | 1u << _data.ConsumeIntegralInRange(29, 31));
            break;
        case 9:
            _m.set_link(_data.ConsumeBool());
            break;
        case 10:
            _m.set_network_full(_data.ConsumeBool());
            break;
        case 11:
            raw_command();
            break;
        case 12:
        case 13:
            create();
            break;
        case 14:
            use_objects();
            break;
        default:
            post();
        }
    }

    // Mostly small, or one of what matters.
    uint32_t value()
    {
        switch (_data.ConsumeIntegralInRange(0, 3)) {
        case 0:
            return _data.ConsumeIntegral<uint8_t>();
        case 1:
            return 1u << _data.ConsumeIntegralInRange(0, 31) | _data.ConsumeIntegral<uint8_t>();
        case 2:
            return ~uint32_t{_data.ConsumeIntegral<uint8_t>()};
        default:
            return _data.ConsumeIntegral<uint32_t>();
        }
    }
    uint32_t one_of(const std::vector<uint32_t>& known)
    {
        if (known.empty() || _data.ConsumeIntegralInRange(0, 7) == 0) {
            return value();
        }
        return known[_data.ConsumeIntegralInRange<size_t>(0, known.size() - 1)];
    }
    uint32_t a_qp()
    {
        std::vector<uint32_t> handles{1};
        std::ranges::transform(_qps, std::back_inserter(handles), &GuestQp::handle);
        return one_of(handles);
    }
    uint64_t gpa()
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
    uint64_t a_directory()
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
    uint64_t address()
    {
        switch (_data.ConsumeIntegralInRange(0, 15)) {
        case 0:
            return _data.ConsumeIntegral<uint64_t>();
        case 1:
            return gpa(); // for a DMA MR
        default:
            return iova - 8 + _data.ConsumeIntegralInRange(0u, 0x4018u);
        }
    }

    void write_memory()
    {
        auto bytes = _data.ConsumeBytes<uint8_t>(_data.ConsumeIntegralInRange<size_t>(1, 64));
        // Near to what the device uses: its pages come first.
        uint64_t at = Machine::ram + _data.ConsumeIntegralInRange<uint64_t>(0, 64 * page_size);
        _m.poke(_data.ConsumeBool() ? at / page_size * page_size : at, bytes.data(), bytes.size());
    }
    void change_memory()
    {
        std::vector<Machine::Change> changes(_data.ConsumeIntegralInRange<size_t>(1, 8));
        for (auto& change : changes) {
            change = {_data.ConsumeIntegralInRange(0u, 40u), _data.ConsumeIntegral<uint16_t>(),
                      value()};
        }
        _m.change_while_read(std::move(changes));
    }
    void lie_about_ring()
    {
        std::vector<Ring> rings = _cq_rings;
        for (const GuestQp& qp : _qps) {
            rings.insert(rings.end(), {qp.sq, qp.rq});
        }
        if (!rings.empty()) {
            const Ring& ring = rings[_data.ConsumeIntegralInRange<size_t>(0, rings.size() - 1)];
            _m.put(ring.state + _data.ConsumeIntegralInRange(0u, 1u) * sizeof(uint32_t), value());
        }
        for (const GuestQp& qp : _qps) {
            _m.ring(1, uar_qp_offset, uar_qp_send | uar_qp_recv | qp.handle);
        }
    }
    void reset()
    {
        if (_data.ConsumeBool()) {
            rdma_device_reset(_m.device());
        } else {
            _m.write_register(reg_ctl, ctl_reset);
        }
        if (_data.ConsumeBool()) {
            _m.bring_up();
        }
        _pds.clear();
        _cqs.clear();
        _cq_rings.clear();
        _mrs.clear();
        _srqs.clear();
        _contexts.clear();
        _qps.clear();
    }

    void raw_command()
    {
        auto bytes = _data.ConsumeBytes<uint8_t>(
            _data.ConsumeIntegralInRange<size_t>(0, sizeof(CmdModifyQp)));
        bytes.resize(std::max(bytes.size(), sizeof(CmdHdr)));
        _m.execute(bytes.data(), bytes.size(), _data.ConsumeIntegralInRange(0u, cmd_max + 2u));
    }

    void create()
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
            if (_qps.size() < 8 && !_pds.empty() && !_cqs.empty()) {
                _qps.push_back(_m.create_qp(qpt_rc, _pds.front(), _cqs.front(), 16,
                                            _data.ConsumeIntegralInRange(1u, 16u)));
            }
        }
    }
    void create_mr(const CmdCreateMr& cmd)
    {
        if (_m.execute(cmd_create_mr, cmd)) {
            auto resp = _m.response<RespCreateMr>();
            _mrs.push_back(resp.mr_handle);
            _keys.push_back(resp.lkey);
            _keys.push_back(resp.rkey);
        }
    }
    uint32_t size()
    {
        return _data.ConsumeIntegralInRange(0, 7) ? 1u << _data.ConsumeIntegralInRange(0, 5)
                                                  : value();
    }

    void use_objects()
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
    void post()
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

    FuzzedDataProvider& _data;
    Machine _m;
    std::vector<uint32_t> _pds, _cqs, _mrs, _srqs, _contexts, _keys;
    std::vector<Ring> _cq_rings;
    std::vector<GuestQp> _qps;
};

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::DeviceFuzz(data).run();
    return 0;
}
