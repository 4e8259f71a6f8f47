// SPDX-License-Identifier: GPL-2.0-or-later
#include "virtio_steps.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace rdma::fuzz {

namespace {

// Where the memory region of a program at work begins, unaligned.
constexpr uint64_t region_iova = 0x7f00'0000'0ff0;
constexpr uint32_t region_pages = 4;
constexpr uint32_t queue_entries = 16;
constexpr uint32_t context_of_program = 3;
constexpr uint32_t qkey = 0x11111111;

template <typename T>
T read(const std::vector<uint8_t>& bytes)
{
    T value{};
    std::memcpy(&value, bytes.data(), std::min(sizeof(value), bytes.size()));
    return value;
}

} // namespace

VirtioRdmaConfig pick_virtio_config(FuzzedDataProvider& data)
{
    VirtioRdmaConfig config = default_virtio_config();
    if (data.ConsumeIntegralInRange(0, 3) == 1) {
        config.vectors = 1;
        config.max_qp = 8;
        config.max_qp_wr = 64;
        config.max_cq = 3;
        config.max_cqe = 64;
        config.max_mr = 5;
        config.max_mr_size = 5 * page_size;
        config.max_pd = 3;
        config.max_srq = 2;
        config.max_srq_wr = 64;
        config.max_contexts = 16;
        config.max_sge = 3;
        config.max_inline = 32;
        config.gid_tbl_len = 2;
        config.max_qp_rd_atom = config.max_qp_init_rd_atom = 2;
    }
    return config;
}

void VirtioSteps::set_up_program(bool is_privileged)
{
    _qps.clear();
    _srqs.clear();
    _keys.clear();
    _m.send(bytes_of(
        virtio_rdma_request{VIRTIO_RDMA_CREATE_CONTEXT, context_of_program}));
    uint32_t pd = _m.create_pd();
    _cqs = {_m.create_cq(64)};
    uint32_t cq = _cqs.front().number;
    auto mr = _m.register_memory(pd, _m.device_pages(region_pages), region_iova);
    _keys = {mr.lkey, mr.rkey};
    std::optional<uint32_t> srq;
    if (_data.ConsumeIntegralInRange(0, 3) == 0) {
        _srqs.push_back(_m.create_srq(pd, context_of_program, queue_entries));
        srq = _srqs.front().number;
    }
    uint32_t context = is_privileged ? 0 : context_of_program;
    for (int i = 0; i < 3; ++i) {
        _qps.push_back(_m.create_qp(VIRTIO_RDMA_QP_RC, pd, cq,
                                    i == 1 ? context : context_of_program, queue_entries,
                                    i == 2 ? srq : std::nullopt));
    }
    _qps.push_back(_m.create_qp(VIRTIO_RDMA_QP_UD, pd, cq, context_of_program, queue_entries, {}));
    _qps.push_back(_m.create_qp(VIRTIO_RDMA_QP_GSI, pd, cq, 0, queue_entries, {}));
    _m.connect(_qps[1], _m.host(), _qps[2].qpn);
    _m.connect(_qps[2], _m.host(), _qps[1].qpn);
    _m.connect(_qps[3], 0, 0);
    _m.connect(_qps[4], 0, 0);
    if (is_privileged) {
        const virtio_rdma_create_mr regions[] = {
            {{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_DMA, 12, 0, VIRTIO_RDMA_LOCAL_WRITE, 0, 0},
            {{VIRTIO_RDMA_CREATE_MR, pd},
             VIRTIO_RDMA_MR_FAST_REGISTRATION,
             12,
             0,
             0,
             0,
             8 * page_size}};
        for (const auto& request : regions) {
            if (_m.send(bytes_of(request)) == VIRTIO_RDMA_OK) {
                _keys.push_back(_m.reply<virtio_rdma_create_mr_reply>().lkey);
            }
        }
    }
}

void VirtioSteps::connect_first(uint8_t host, uint32_t qpn)
{
    _m.connect(_qps.front(), host, qpn);
    for (int i = 0; i < 4; ++i) {
        post_receive();
    }
}

void VirtioSteps::step()
{
    switch (_data.ConsumeIntegralInRange(0, 23)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
        send_command();
        break;
    case 6:
        write_ring_entry();
        break;
    case 7:
        lie_about_ring();
        break;
    case 8:
        ring_doorbell();
        break;
    case 9:
        write_memory();
        break;
    case 10:
    case 11:
        change_memory();
        break;
    case 12:
    case 13:
        drain_and_arm();
        break;
    case 14:
    case 15:
        change_world();
        break;
    case 16:
        negotiate();
        break;
    case 17:
    case 18:
        post_receive();
        break;
    default:
        post_send();
    }
}

void VirtioSteps::negotiate()
{
    if (_data.ConsumeBool()) {
        _m.set_features(_data.ConsumeIntegralInRange(0, 3) ? ~uint64_t{0}
                                                           : _data.ConsumeIntegral<uint8_t>());
    } else {
        _m.set_event_queues(_data.ConsumeBool() ? VirtioMachine::all_event_queues
                                                : _data.ConsumeIntegral<uint16_t>());
    }
}

void VirtioSteps::stop_and_start()
{
    _m.stop();
    if (_data.ConsumeBool() && _m.is_stopped()) {
        auto state = _m.save();
        std::string refused = _m.load(state);
        if (!refused.empty()) {
            broken(refused.c_str()); // what a device saves it takes
        }
    }
    _m.start();
}

void VirtioSteps::reset()
{
    _m.reset();
    _m.forget_objects();
    _m.expect_nothing_left();
    _m.bring_up();
}

// Sometimes of another kind.
uint32_t VirtioSteps::a(Kind kind)
{
    if (_data.ConsumeIntegralInRange(0, 15) == 0) {
        kind = static_cast<Kind>(_data.ConsumeIntegralInRange<size_t>(0, num_kinds - 1));
    }
    const auto& objects = _m.objects(kind);
    return one_of({objects.begin(), objects.end()});
}

uint64_t VirtioSteps::gpa()
{
    switch (_data.ConsumeIntegralInRange(0, 5)) {
    case 0:
        return DeviceMachine::ram +
               _data.ConsumeIntegralInRange<uint64_t>(0, DeviceMachine::ram_size - 1);
    case 1:
        return DeviceMachine::more_ram - page_size;
    case 2:
        return DeviceMachine::more_ram + DeviceMachine::more_ram_size -
               _data.ConsumeIntegral<uint8_t>();
    case 3:
        return DeviceMachine::rom;
    case 4:
        return DeviceMachine::more_ram;
    default:
        return _data.ConsumeIntegral<uint64_t>();
    }
}

uint64_t VirtioSteps::address()
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

// The pages of a queue or region, mostly as many as are right.
std::vector<uint64_t> VirtioSteps::some_pages(uint64_t right_count)
{
    uint64_t count = std::min<uint64_t>(right_count, 12);
    if (_data.ConsumeIntegralInRange(0, 15) == 0) {
        count = _data.ConsumeIntegralInRange<uint64_t>(0, 12);
    }
    auto list = _m.device_pages(count);
    if (!list.empty() && _data.ConsumeIntegralInRange(0, 7) == 0) {
        uint64_t other = gpa();
        list[_data.ConsumeIntegralInRange<size_t>(0, list.size() - 1)] =
            _data.ConsumeBool() ? other : other / page_size * page_size;
    }
    return list;
}

// A request with most fields as they may be.
std::vector<uint8_t> VirtioSteps::request(uint32_t command)
{
    auto depth = [&] { return static_cast<uint16_t>(1u << _data.ConsumeIntegralInRange(0, 6)); };
    auto entry_size = [&](int least) {
        return static_cast<uint16_t>(1u << _data.ConsumeIntegralInRange(least, 12));
    };
    auto pages_for = [&](uint32_t size, uint32_t entries) {
        return (uint64_t{size} * entries + page_size - 1) / page_size;
    };
    switch (command) {
    case VIRTIO_RDMA_CREATE_CONTEXT:
        return bytes_of(virtio_rdma_request{command, _data.ConsumeIntegralInRange(0u, 17u)});
    case VIRTIO_RDMA_CREATE_MR: {
        virtio_rdma_create_mr mr{{command, a(Kind::pd)}, VIRTIO_RDMA_MR_PAGES, 12, 0, 0, 0, 0};
        mr.access = _data.ConsumeIntegralInRange(0u, 15u);
        mr.iova = address();
        mr.length = _data.ConsumeIntegralInRange<uint64_t>(1, 6 * page_size);
        return bytes_of(mr, some_pages((mr.iova % page_size + mr.length - 1) / page_size + 1));
    }
    case VIRTIO_RDMA_CREATE_CQ: {
        virtio_rdma_create_cq cq{{command, _data.ConsumeIntegralInRange(0u, 2u)},
                                 depth(),
                                 0,
                                 _m.device_pages(1).front()};
        return bytes_of(cq, some_pages(pages_for(64, cq.entries)));
    }
    case VIRTIO_RDMA_CREATE_SRQ: {
        virtio_rdma_create_srq srq{{command, a(Kind::pd)},
                                   a(Kind::context),
                                   depth(),
                                   entry_size(5),
                                   _m.device_pages(1).front()};
        return bytes_of(srq, some_pages(pages_for(srq.entry_size, srq.entries)));
    }
    case VIRTIO_RDMA_ARM_SRQ:
        return bytes_of(
            virtio_rdma_arm_srq{{command, a(Kind::srq)}, _data.ConsumeIntegralInRange(0u, 20u), 0});
    case VIRTIO_RDMA_CREATE_QP: {
        virtio_rdma_create_qp qp{};
        qp.request = {command, a(Kind::pd)};
        static constexpr uint8_t types[] = {VIRTIO_RDMA_QP_RC, VIRTIO_RDMA_QP_RC, VIRTIO_RDMA_QP_UD,
                                            VIRTIO_RDMA_QP_GSI};
        qp.type = _data.PickValueInArray(types);
        qp.context = qp.type == VIRTIO_RDMA_QP_GSI ? 0 : a(Kind::context);
        qp.flags = _data.ConsumeIntegralInRange<uint8_t>(0, 3);
        qp.send_cq = a(Kind::cq);
        qp.recv_cq = a(Kind::cq);
        qp.sq_entries = depth();
        qp.sq_entry_size = entry_size(6);
        qp.sq_state = _m.device_pages(1).front();
        uint64_t count = pages_for(qp.sq_entry_size, qp.sq_entries);
        if (qp.flags & VIRTIO_RDMA_QP_USES_SRQ) {
            qp.srq = a(Kind::srq);
        } else {
            qp.rq_entries = depth();
            qp.rq_entry_size = entry_size(5);
            qp.rq_state = qp.sq_state + VIRTIO_RDMA_STATE_ALIGNMENT;
            count += pages_for(qp.rq_entry_size, qp.rq_entries);
        }
        return bytes_of(qp, some_pages(count));
    }
    case VIRTIO_RDMA_MODIFY_QP: {
        virtio_rdma_modify_qp modify{{command, a(Kind::qp)}, {}};
        auto& attributes = modify.attributes;
        attributes.mask = _data.ConsumeBool() ? +VIRTIO_RDMA_ATTR_STATE
                                              : _data.ConsumeIntegral<uint32_t>() & 0x2bfffu;
        attributes.state = _data.ConsumeIntegralInRange<uint8_t>(0, 6);
        attributes.current_state = _data.ConsumeIntegralInRange<uint8_t>(0, 6);
        attributes.path_mtu = _data.ConsumeIntegralInRange<uint8_t>(1, 5);
        attributes.max_rd_atomic = _data.ConsumeIntegralInRange<uint8_t>(0, 4);
        attributes.max_dest_rd_atomic = _data.ConsumeIntegralInRange<uint8_t>(0, 4);
        attributes.timeout = attributes.min_rnr_timer =
            _data.ConsumeIntegralInRange<uint8_t>(0, 31);
        attributes.retry_count = attributes.rnr_retry = _data.ConsumeIntegralInRange<uint8_t>(0, 7);
        attributes.sqd_event = _data.ConsumeIntegralInRange<uint8_t>(0, 1);
        attributes.access = _data.ConsumeIntegralInRange(0u, 15u);
        attributes.qkey = qkey;
        attributes.rq_psn = attributes.sq_psn = value() & 0xffffff;
        attributes.dest_qpn = a(Kind::qp) & 0xffffff;
        attributes.av = VirtioMachine::address_of(_data.ConsumeIntegralInRange<uint8_t>(0, 3));
        return bytes_of(modify);
    }
    case VIRTIO_RDMA_ADD_GID: {
        virtio_rdma_add_gid gid{
            {command, _data.ConsumeIntegralInRange(0u, 2u)}, {}, {}, VIRTIO_RDMA_NO_VLAN};
        auto av = VirtioMachine::address_of(_data.ConsumeIntegralInRange<uint8_t>(0, 3));
        std::ranges::copy(av.dgid, gid.gid);
        std::ranges::copy(av.dmac, gid.mac);
        if (_data.ConsumeIntegralInRange(0, 3) == 0) {
            gid.vlan = _data.ConsumeIntegralInRange<uint16_t>(0, 4096);
        }
        return bytes_of(gid);
    }
    default:
        break;
    }
    const CommandShape* shape = find_shape(command);
    Kind kind = shape ? shape->destroys : Kind::none;
    if (command == VIRTIO_RDMA_QUERY_SRQ) {
        kind = Kind::srq;
    } else if (command == VIRTIO_RDMA_QUERY_QP) {
        kind = Kind::qp;
    }
    return bytes_of(virtio_rdma_request{command, kind == Kind::none ? 0 : a(kind)});
}

// Wrong in one place.
void VirtioSteps::spoil(std::vector<uint8_t>& request)
{
    size_t at = _data.ConsumeIntegralInRange<size_t>(0, request.size() - 1);
    auto put = [&](auto field) {
        at = at / sizeof(field) * sizeof(field);
        std::memcpy(request.data() + at, &field, std::min(sizeof(field), request.size() - at));
    };
    switch (_data.ConsumeIntegralInRange(0, 5)) {
    case 0:
        put(_data.ConsumeIntegral<uint8_t>());
        break;
    case 1:
        put(static_cast<uint16_t>(value()));
        break;
    case 2:
        put(value());
        break;
    case 3:
        put(gpa());
        break;
    case 4:
        request.resize(at);
        break;
    default:
        request.resize(request.size() + _data.ConsumeIntegralInRange<size_t>(1, 16));
    }
}

void VirtioSteps::send_command()
{
    uint32_t command = _data.ConsumeIntegralInRange<uint32_t>(0, VIRTIO_RDMA_DELETE_GID + 1);
    if (_data.ConsumeIntegralInRange(0, 15) == 0) {
        auto bytes = _data.ConsumeBytes<uint8_t>(
            _data.ConsumeIntegralInRange<size_t>(0, sizeof(virtio_rdma_modify_qp)));
        if (bytes.size() >= sizeof(command)) {
            std::memcpy(bytes.data(), &command, sizeof(command));
        }
        _m.send(bytes, _data.ConsumeIntegralInRange<size_t>(0, RDMA_MAX_REPLY));
        return;
    }
    auto bytes = request(command);
    int wrong = _data.ConsumeIntegralInRange(0, 7);
    if (wrong < 2) {
        spoil(bytes);
    }
    auto status = wrong == 2
                      ? _m.send(bytes, _data.ConsumeIntegralInRange<size_t>(0, RDMA_MAX_REPLY))
                      : _m.send(bytes);
    if (status == VIRTIO_RDMA_OK) {
        keep_made(bytes);
    }
}

// Queues of what has been created are used like those of the program.
void VirtioSteps::keep_made(const std::vector<uint8_t>& request)
{
    auto pages_behind = [&](size_t size) {
        std::vector<uint64_t> pages((request.size() - size) / sizeof(uint64_t));
        if (!pages.empty()) {
            std::memcpy(pages.data(), request.data() + size, pages.size() * sizeof(uint64_t));
        }
        return pages;
    };
    auto header = read<virtio_rdma_request>(request);
    switch (header.command) {
    case VIRTIO_RDMA_CREATE_MR: {
        auto reply = _m.reply<virtio_rdma_create_mr_reply>();
        _keys.insert(_keys.end(), {reply.lkey, reply.rkey});
        break;
    }
    case VIRTIO_RDMA_CREATE_CQ: {
        auto cq = read<virtio_rdma_create_cq>(request);
        _cqs.push_back({_m.made(), cq.state, pages_behind(sizeof(cq)), cq.entries});
        break;
    }
    case VIRTIO_RDMA_CREATE_SRQ: {
        auto srq = read<virtio_rdma_create_srq>(request);
        _srqs.push_back({srq.state, pages_behind(sizeof(srq)), srq.entry_size, srq.entries,
                         srq.context, VIRTIO_RDMA_DOORBELL_SRQ, _m.made()});
        break;
    }
    case VIRTIO_RDMA_CREATE_QP: {
        auto qp = read<virtio_rdma_create_qp>(request);
        auto pages = pages_behind(sizeof(qp));
        auto middle = pages.begin() +
                      static_cast<ptrdiff_t>(
                          (size_t{qp.sq_entry_size} * qp.sq_entries + page_size - 1) / page_size);
        _qps.push_back({_m.made(),
                        qp.type,
                        {qp.sq_state,
                         {pages.begin(), middle},
                         qp.sq_entry_size,
                         qp.sq_entries,
                         qp.context,
                         VIRTIO_RDMA_DOORBELL_SQ,
                         _m.made()},
                        {qp.rq_state,
                         {middle, pages.end()},
                         qp.rq_entry_size,
                         qp.rq_entries,
                         qp.context,
                         VIRTIO_RDMA_DOORBELL_RQ,
                         _m.made()}});
        break;
    }
    case VIRTIO_RDMA_MODIFY_QP: {
        auto attributes = read<virtio_rdma_modify_qp>(request).attributes;
        if ((attributes.mask & VIRTIO_RDMA_ATTR_STATE) &&
            attributes.state == VIRTIO_RDMA_QP_RESET && _data.ConsumeIntegralInRange(0, 3)) {
            restart_queues(header.object);
        }
        break;
    }
    default:
        break;
    }
}

void VirtioSteps::restart_queues(uint32_t qpn)
{
    for (const VirtioQp& qp : _qps) {
        if (qp.qpn == qpn) {
            _m.put(qp.sq.state, uint32_t{0});
            _m.put(qp.rq.state, uint32_t{0});
        }
    }
}

std::vector<const VirtioQueue*> VirtioSteps::queues() const
{
    std::vector<const VirtioQueue*> queues;
    for (const VirtioQp& qp : _qps) {
        queues.push_back(&qp.sq);
        if (qp.rq.entries > 0) {
            queues.push_back(&qp.rq);
        }
    }
    for (const VirtioQueue& srq : _srqs) {
        queues.push_back(&srq);
    }
    return queues;
}

const VirtioQueue* VirtioSteps::a_queue()
{
    auto all = queues();
    return all.empty() ? nullptr : all[_data.ConsumeIntegralInRange<size_t>(0, all.size() - 1)];
}

void VirtioSteps::post_send()
{
    if (_qps.empty()) {
        return;
    }
    const VirtioQp& qp = _qps[_data.ConsumeIntegralInRange<size_t>(0, _qps.size() - 1)];
    union {
        virtio_rdma_sq_entry entry;
        virtio_rdma_sq_rdma rdma;
        virtio_rdma_sq_atomic atomic;
        virtio_rdma_sq_datagram datagram;
        virtio_rdma_sq_registration registration;
        uint8_t bytes[512];
    } wqe{};
    auto& entry = wqe.entry;
    entry.wr_id = 2;
    entry.opcode = _data.ConsumeIntegralInRange<uint8_t>(0, VIRTIO_RDMA_OP_FAST_REGISTRATION + 1);
    entry.flags = _data.ConsumeIntegralInRange<uint8_t>(0, 15);
    size_t fields = sizeof(entry);
    bool is_rc = qp.type == VIRTIO_RDMA_QP_RC;
    if (!is_rc) {
        entry.opcode = _data.ConsumeIntegralInRange(0, 15) ? VIRTIO_RDMA_OP_SEND : entry.opcode;
        wqe.datagram.qpn = a(Kind::qp);
        wqe.datagram.qkey = _data.ConsumeIntegralInRange(0, 7) ? qkey : value();
        wqe.datagram.av = VirtioMachine::address_of(_data.ConsumeIntegralInRange<uint8_t>(0, 2));
        fields = sizeof(wqe.datagram);
    } else {
        switch (entry.opcode) {
        case VIRTIO_RDMA_OP_WRITE:
        case VIRTIO_RDMA_OP_WRITE_IMM:
        case VIRTIO_RDMA_OP_READ:
            wqe.rdma.remote_addr = address();
            wqe.rdma.rkey = one_of(_keys);
            fields = sizeof(wqe.rdma);
            break;
        case VIRTIO_RDMA_OP_CMP_SWAP:
        case VIRTIO_RDMA_OP_FETCH_ADD:
            wqe.atomic.remote_addr = address() / 8 * 8;
            wqe.atomic.rkey = one_of(_keys);
            fields = sizeof(wqe.atomic);
            break;
        case VIRTIO_RDMA_OP_FAST_REGISTRATION: {
            auto list = some_pages(_data.ConsumeIntegralInRange<uint64_t>(1, 9));
            uint64_t array = _m.device_pages(1).front();
            _m.poke(array, list.data(), list.size() * sizeof(uint64_t));
            wqe.registration.iova = region_iova;
            wqe.registration.length = uint64_t{list.size()} * page_size - region_iova % page_size;
            wqe.registration.pages = array;
            wqe.registration.key = one_of(_keys);
            wqe.registration.access = _data.ConsumeIntegralInRange<uint16_t>(0, 15);
            wqe.registration.page_shift = 12;
            break;
        }
        case VIRTIO_RDMA_OP_LOCAL_INV:
        case VIRTIO_RDMA_OP_SEND_INV:
            entry.key = one_of(_keys);
            break;
        default:
            break;
        }
    }
    if (entry.opcode != VIRTIO_RDMA_OP_LOCAL_INV &&
        entry.opcode != VIRTIO_RDMA_OP_FAST_REGISTRATION) {
        bool is_atomic =
            entry.opcode == VIRTIO_RDMA_OP_CMP_SWAP || entry.opcode == VIRTIO_RDMA_OP_FETCH_ADD;
        uint16_t count = is_atomic ? 1 : _data.ConsumeIntegralInRange<uint16_t>(0, 3);
        entry.count = _data.ConsumeIntegralInRange(0, 15) ? count : static_cast<uint16_t>(value());
        for (uint16_t i = 0; i < count; ++i) {
            virtio_rdma_sge sge{address(), _data.ConsumeIntegralInRange(0u, 3000u), one_of(_keys)};
            if (is_atomic) {
                sge.length = 8;
            }
            std::memcpy(wqe.bytes + fields + i * sizeof(sge), &sge, sizeof(sge));
        }
    }
    if (_data.ConsumeIntegralInRange(0, 15) == 0) {
        wqe.bytes[_data.ConsumeIntegralInRange<size_t>(0, 127)] = _data.ConsumeIntegral<uint8_t>();
    }
    _m.publish(qp.sq, wqe.bytes, sizeof(wqe));
}

void VirtioSteps::post_receive()
{
    std::vector<const VirtioQueue*> receives;
    std::ranges::copy_if(queues(), std::back_inserter(receives), [](const VirtioQueue* queue) {
        return queue->kind != VIRTIO_RDMA_DOORBELL_SQ;
    });
    if (receives.empty()) {
        return;
    }
    struct {
        virtio_rdma_rq_entry entry;
        virtio_rdma_sge sges[3];
    } wqe{};
    wqe.entry.wr_id = 1;
    wqe.entry.count = _data.ConsumeIntegralInRange(0, 15)
                          ? _data.ConsumeIntegralInRange<uint16_t>(0, 3)
                          : static_cast<uint16_t>(value());
    for (auto& sge : wqe.sges) {
        sge = {address(), _data.ConsumeIntegralInRange(0u, 5000u), one_of(_keys)};
    }
    _m.publish(*receives[_data.ConsumeIntegralInRange<size_t>(0, receives.size() - 1)], &wqe,
               sizeof(wqe));
}

void VirtioSteps::write_ring_entry()
{
    const VirtioQueue* queue = a_queue();
    auto bytes = _data.ConsumeBytes<uint8_t>(_data.ConsumeIntegralInRange<size_t>(1, 128));
    bytes.resize(std::max<size_t>(bytes.size(), 1));
    if (queue) {
        _m.publish(*queue, bytes.data(), bytes.size());
    }
}

void VirtioSteps::lie_about_ring()
{
    // The driver's words, the device's, and what is reserved beside them.
    uint64_t word = _data.ConsumeBool() ? _data.ConsumeIntegralInRange<uint64_t>(0, 1)
                                        : _data.ConsumeIntegralInRange<uint64_t>(0, 31);
    if (!_cqs.empty() && _data.ConsumeIntegralInRange(0, 2) == 0) {
        const VirtioCq& cq = _cqs[_data.ConsumeIntegralInRange<size_t>(0, _cqs.size() - 1)];
        _m.put(cq.state + word * sizeof(uint32_t), value());
    } else if (const VirtioQueue* queue = a_queue()) {
        _m.put(queue->state + word * sizeof(uint32_t), value());
        _m.ring(*queue);
    }
}

void VirtioSteps::ring_doorbell()
{
    uint32_t context =
        _data.ConsumeBool() ? a(Kind::context) : _data.ConsumeIntegralInRange(0u, 600u);
    uint32_t kind = _data.ConsumeIntegralInRange(0u, 3u);
    uint32_t number = a(kind == VIRTIO_RDMA_DOORBELL_SRQ ? Kind::srq : Kind::qp);
    uint32_t word = VIRTIO_RDMA_DOORBELL(kind, number);
    if (_data.ConsumeIntegralInRange(0, 7)) {
        _m.ring(context, word);
        return;
    }
    static constexpr unsigned sizes[] = {1, 2, 4, 8};
    _m.write_bar(_data.ConsumeIntegralInRange(0u, 2u),
                 uint64_t{context} * page_size + _data.ConsumeIntegralInRange(0u, 4095u), word,
                 _data.PickValueInArray(sizes));
    _m.read_bar(VIRTIO_RDMA_DOORBELLS, _data.ConsumeIntegral<uint32_t>());
}

void VirtioSteps::write_memory()
{
    auto bytes = _data.ConsumeBytes<uint8_t>(_data.ConsumeIntegralInRange<size_t>(1, 64));
    auto all = queues();
    if (all.empty()) {
        return;
    }
    // Into a page of a queue's: others are nobody's, and must stay as they are.
    const VirtioQueue& queue = *all[_data.ConsumeIntegralInRange<size_t>(0, all.size() - 1)];
    uint64_t page =
        queue.pages.empty() || _data.ConsumeBool()
            ? queue.state / page_size * page_size
            : queue.pages[_data.ConsumeIntegralInRange<size_t>(0, queue.pages.size() - 1)];
    _m.poke(page + _data.ConsumeIntegralInRange<uint64_t>(0, page_size - 64), bytes.data(),
            bytes.size());
}

void VirtioSteps::drain_and_arm()
{
    static constexpr uint32_t kinds[] = {VIRTIO_RDMA_ARM_NEXT, VIRTIO_RDMA_ARM_SOLICITED,
                                         VIRTIO_RDMA_ARM_NONE, 3};
    for (VirtioCq& cq : _cqs) {
        _m.drain(cq, _data.PickValueInArray(kinds));
    }
}

} // namespace rdma::fuzz
