// SPDX-License-Identifier: GPL-2.0-or-later
//
// The commands of completion queues, shared receive queues and queue pairs.
#include <bit>
#include <cerrno>

#include "attributes.h"
#include "command.h"
#include "qp_rules.h"

namespace rdma {

using namespace virtio;

namespace {

constexpr uint8_t all_qp_flags = VIRTIO_RDMA_QP_SIGNAL_ALL | VIRTIO_RDMA_QP_USES_SRQ;

bool is_depth(uint32_t entries, uint32_t most)
{
    return std::has_single_bit(entries) && entries <= most;
}

bool is_entry_size(uint32_t size, uint32_t least)
{
    return std::has_single_bit(size) && size >= least && size <= page_size;
}

bool is_state(uint64_t address)
{
    return address % VIRTIO_RDMA_STATE_ALIGNMENT == 0;
}

ibv_qp_type verbs_type(uint8_t type)
{
    return type == VIRTIO_RDMA_QP_RC ? IBV_QPT_RC : IBV_QPT_UD;
}

} // namespace

EntryLimits VirtioRdmaDevice::entry_limits(uint32_t entry_size) const
{
    return {.entry_size = entry_size,
            .max_sges = _config.max_sge,
            .max_inline = std::min(_config.max_inline, _backend.features().max_inline),
            .features = _features};
}

void VirtioRdmaDevice::set_entry_limits(Qp& qp) const
{
    qp.send_limits = entry_limits(qp.sq.array().entry_size());
    qp.send_limits.datagram = qp.type != VIRTIO_RDMA_QP_RC;
    qp.send_limits.privileged = qp.context == 0;
    qp.receive_limits = entry_limits(qp.rq.array().entry_size());
}

std::optional<uint32_t> VirtioRdmaDevice::find_qp(uint32_t qpn) const
{
    auto found = _qp_ids.find(qpn);
    return found == _qp_ids.end() ? std::nullopt : std::optional(found->second);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::create_cq(Command& command)
{
    auto fields = command.fields<virtio_rdma_create_cq>();
    uint32_t vector = command.header.object;
    if (!is_depth(fields.entries, _config.max_cqe)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    uint32_t num_pages = EntryArray::pages_for(sizeof(virtio_rdma_cq_entry), fields.entries);
    auto pages = command.addresses<virtio_rdma_create_cq>(num_pages);
    if (!pages) {
        return VIRTIO_RDMA_ERR_LENGTH;
    }
    if (fields.reserved != 0 || !is_state(fields.state) || !are_aligned(*pages) ||
        vector >= _config.vectors ||
        !(_event_queues >> (VIRTIO_RDMA_VQ_COMPLETION + vector) & 1)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    if (_cqs.size() >= _config.max_cq || !has_room_for(num_pages)) {
        return VIRTIO_RDMA_ERR_LIMIT;
    }
    if (!are_memory(*pages) || !_memory.is_memory(fields.state, sizeof(virtio_rdma_cq_state))) {
        return VIRTIO_RDMA_ERR_ADDRESS;
    }
    auto id = _backend.create_cq();
    if (!id) {
        return status_of(id.error());
    }
    Cq cq{.vector = vector,
          .queue = CompletionQueue(
              fields.state,
              EntryArray(std::move(*pages), sizeof(virtio_rdma_cq_entry), fields.entries))};
    command.answer_object(_cqs.insert(*id, std::move(cq)));
    _num_pages += num_pages;
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::destroy_cq(Command& command)
{
    auto id = _cqs.id_of(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    int error = _backend.destroy_cq(*id);
    if (error == 0) {
        const Cq& cq = *_cqs.find(*id);
        _num_pages -= cq.num_pages();
        forget_events(cq.pending_events, cq.number);
        // [virtio-rdma CTL-16] [virtio-rdma EVT-4]
        if (cq.event_pending) {
            _completion_events[cq.vector].remove(*id);
        }
        _cqs.erase(*id);
    }
    return status_of(error);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::create_srq(Command& command)
{
    auto fields = command.fields<virtio_rdma_create_srq>();
    if (!is_depth(fields.entries, _config.max_srq_wr) ||
        !is_entry_size(fields.entry_size, least_receive_entry)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    uint32_t num_pages = EntryArray::pages_for(fields.entry_size, fields.entries);
    auto pages = command.addresses<virtio_rdma_create_srq>(num_pages);
    if (!pages) {
        return VIRTIO_RDMA_ERR_LENGTH;
    }
    if (!is_state(fields.state) || !are_aligned(*pages)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    auto pd = _pds.id_of(command.header.object);
    if (!pd || !is_context(fields.context)) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    if (_srqs.size() >= _config.max_srq || !has_room_for(num_pages)) {
        return VIRTIO_RDMA_ERR_LIMIT;
    }
    if (!are_memory(*pages) || !_memory.is_memory(fields.state, sizeof(virtio_rdma_queue_state))) {
        return VIRTIO_RDMA_ERR_ADDRESS;
    }
    uint32_t max_sges = std::min(_config.max_sge, receive_sges(fields.entry_size));
    auto id = _backend.create_srq(*pd, {fields.entries, max_sges, 0});
    if (!id) {
        return status_of(id.error());
    }
    Srq srq{.context = fields.context,
            .queue = WorkQueue(fields.state, EntryArray(std::move(*pages), fields.entry_size,
                                                        fields.entries)),
            .limits = entry_limits(fields.entry_size)};
    command.answer_object(_srqs.insert(*id, std::move(srq)));
    use_context(fields.context, 1);
    _num_pages += num_pages;
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::arm_srq(Command& command)
{
    auto fields = command.fields<virtio_rdma_arm_srq>();
    if (fields.reserved != 0) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    auto id = _srqs.id_of(command.header.object);
    if (!id) {
        return fields.limit > _config.max_srq_wr ? VIRTIO_RDMA_ERR_INVALID : VIRTIO_RDMA_ERR_OBJECT;
    }
    if (fields.limit > _srqs.find(*id)->queue.array().entries()) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    ibv_srq_attr attr{.max_wr = 0, .max_sge = 0, .srq_limit = fields.limit};
    return status_of(_backend.modify_srq(*id, attr, IBV_SRQ_LIMIT));
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::query_srq(Command& command)
{
    auto id = _srqs.id_of(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    ibv_srq_attr attr{};
    int error = _backend.query_srq(*id, attr);
    command.answer(virtio_rdma_query_srq_reply{{VIRTIO_RDMA_OK, 0}, attr.srq_limit, 0});
    return status_of(error);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::destroy_srq(Command& command)
{
    auto id = _srqs.id_of(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    int error = _backend.destroy_srq(*id);
    if (error == 0) {
        const Srq& srq = *_srqs.find(*id);
        _num_pages -= srq.num_pages();
        use_context(srq.context, -1);
        // [virtio-rdma EVT-4]
        forget_events(srq.pending_events, srq.number);
        _srqs.erase(*id);
    }
    return status_of(error);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::create_qp(Command& command)
{
    auto fields = command.fields<virtio_rdma_create_qp>();
    bool has_rq = !(fields.flags & VIRTIO_RDMA_QP_USES_SRQ);
    bool has_sizes = is_depth(fields.sq_entries, _config.max_qp_wr) &&
                     is_entry_size(fields.sq_entry_size, least_send_entry);
    if (has_rq) {
        has_sizes = has_sizes && is_depth(fields.rq_entries, _config.max_qp_wr) &&
                    is_entry_size(fields.rq_entry_size, least_receive_entry);
    } else {
        has_sizes = has_sizes && fields.rq_entries == 0 && fields.rq_entry_size == 0;
    }
    if (!has_sizes) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    uint32_t sq_pages = EntryArray::pages_for(fields.sq_entry_size, fields.sq_entries);
    uint32_t rq_pages = EntryArray::pages_for(fields.rq_entry_size, fields.rq_entries);
    uint32_t num_pages = sq_pages + rq_pages;
    auto pages = command.addresses<virtio_rdma_create_qp>(num_pages);
    if (!pages) {
        return VIRTIO_RDMA_ERR_LENGTH;
    }
    bool is_gsi = fields.type == VIRTIO_RDMA_QP_GSI;
    if ((!is_gsi && fields.type != VIRTIO_RDMA_QP_RC && fields.type != VIRTIO_RDMA_QP_UD) ||
        (fields.flags & ~all_qp_flags) != 0 || fields.reserved != 0 || fields.reserved2 != 0 ||
        (has_rq ? fields.srq != 0
                : fields.rq_state != 0 || !has_feature(_features, VIRTIO_RDMA_F_SRQ)) ||
        (is_gsi && fields.context != 0) || !is_state(fields.sq_state) ||
        !is_state(fields.rq_state) || !are_aligned(*pages)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    auto pd = _pds.id_of(command.header.object);
    // [virtio-rdma CTL-18]
    auto send_cq = _cqs.id_of(fields.send_cq);
    auto recv_cq = _cqs.id_of(fields.recv_cq);
    auto srq = has_rq ? std::optional<uint32_t>(0) : _srqs.id_of(fields.srq);
    if (!pd || !send_cq || !recv_cq || !srq || !is_context(fields.context)) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    if (is_gsi && _qps.find(gsi_id)) {
        return VIRTIO_RDMA_ERR_BUSY;
    }
    if (_qps.size() >= _config.max_qp || !has_room_for(num_pages)) {
        return VIRTIO_RDMA_ERR_LIMIT;
    }
    constexpr uint64_t state_size = sizeof(virtio_rdma_queue_state);
    if (!are_memory(*pages) || !_memory.is_memory(fields.sq_state, state_size) ||
        (has_rq && !_memory.is_memory(fields.rq_state, state_size))) {
        return VIRTIO_RDMA_ERR_ADDRESS;
    }

    Qp qp{.context = fields.context, .type = fields.type};
    auto middle = pages->begin() + static_cast<ptrdiff_t>(sq_pages);
    qp.sq = WorkQueue(fields.sq_state, EntryArray({pages->begin(), middle}, fields.sq_entry_size,
                                                  fields.sq_entries));
    uint32_t receive_most = 0; // SGEs
    if (has_rq) {
        qp.rq = WorkQueue(fields.rq_state, EntryArray({middle, pages->end()},
                                                      fields.rq_entry_size, fields.rq_entries));
        receive_most = std::min(_config.max_sge, receive_sges(fields.rq_entry_size));
    }
    set_entry_limits(qp);
    QpInit init;
    init.type = verbs_type(fields.type);
    init.gsi = is_gsi;
    init.pd = *pd;
    init.send_cq = *send_cq;
    init.recv_cq = *recv_cq;
    init.use_srq = !has_rq;
    init.srq = *srq;
    init.sq_sig_all = (fields.flags & VIRTIO_RDMA_QP_SIGNAL_ALL) != 0;
    init.cap = {.max_send_wr = fields.sq_entries,
                .max_recv_wr = fields.rq_entries,
                .max_send_sge = std::min(_config.max_sge, send_sges(fields.sq_entry_size)),
                .max_recv_sge = receive_most,
                .max_inline_data = 0};
    auto numbers = _backend.create_qp(init);
    if (!numbers) {
        return status_of(numbers.error());
    }
    qp.qpn = numbers->qpn;
    _qp_ids.emplace(numbers->qpn, numbers->id);
    _qps.insert(numbers->id, std::move(qp));
    use_context(fields.context, 1);
    _num_pages += num_pages;
    command.answer_object(numbers->qpn);
    return VIRTIO_RDMA_OK;
}

// [virtio-rdma REQ-3]
// Whether the queue pair has the transition, as far as the attributes' values are right.
VirtioRdmaDevice::Status VirtioRdmaDevice::check_transition(const Qp& qp,
                                                            const ibv_qp_attr& present,
                                                            const ibv_qp_attr& attr,
                                                            int mask) const
{
    ibv_qp_type type = verbs_type(qp.type);
    ibv_qp_state from = present.qp_state;
    ibv_qp_state to = mask & IBV_QP_STATE ? attr.qp_state : from;
    bool may_name_state = from == IBV_QPS_RTR || from == IBV_QPS_RTS || from == IBV_QPS_SQD ||
                          from == IBV_QPS_SQE;
    if ((mask & IBV_QP_CUR_STATE) && !may_name_state) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    bool exists = has_transition(type, from, to);
    if (exists && rdma::check_transition(type, qp.type == VIRTIO_RDMA_QP_GSI, from, to, mask) != 0) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    bool is_given_up = to == IBV_QPS_RESET || to == IBV_QPS_ERR;
    if (!exists || ((mask & IBV_QP_CUR_STATE) && attr.cur_qp_state != from) ||
        (from == IBV_QPS_SQD && present.sq_draining && !is_given_up)) {
        return VIRTIO_RDMA_ERR_STATE;
    }
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::modify_qp(Command& command)
{
    auto fields = command.fields<virtio_rdma_modify_qp>();
    ibv_qp_attr attr;
    int mask;
    Mac dmac;
    AttributeLimits limits{.max_mtu = max_mtu(),
                           .max_rd_atomic = _config.max_qp_init_rd_atom,
                           .max_dest_rd_atomic = _config.max_qp_rd_atom,
                           .features = _features};
    if (!decode_attributes(fields.attributes, limits, attr, mask, dmac)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    if (mask & IBV_QP_AV) {
        uint8_t index = attr.ah_attr.grh.sgid_index;
        if (index >= _gids.size() || !_gids[index]) {
            return VIRTIO_RDMA_ERR_INVALID;
        }
    }
    auto id = find_qp(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    ibv_qp_attr present{};
    Mac present_mac{};
    if (int error = _backend.query_qp(*id, present, present_mac)) {
        return status_of(error);
    }
    ibv_qp_state from = present.qp_state;
    ibv_qp_state to = mask & IBV_QP_STATE ? attr.qp_state : from;
    if (from == IBV_QPS_RESET && to == IBV_QPS_INIT) {
        // What the guest need not tell.
        mask |= IBV_QP_PKEY_INDEX | IBV_QP_PORT;
        attr.port_num = 1;
    }
    if (Status status = check_transition(*_qps.find(*id), present, attr, mask);
        status != VIRTIO_RDMA_OK) {
        return status;
    }
    Modification modification{.to_reset = to == IBV_QPS_RESET,
                              .has_state = (mask & IBV_QP_STATE) != 0,
                              .sets_mtu = (mask & IBV_QP_PATH_MTU) != 0};
    int error = _backend.modify_qp(*id, attr, mask, dmac);
    if (error == EINPROGRESS) {
        _waiting.emplace(*id, Waiting{command.deferred(), modification, {}});
        return std::nullopt;
    }
    if (error == 0) {
        has_been_modified(*id, modification);
    }
    return status_of(error);
}

void VirtioRdmaDevice::has_been_modified(uint32_t id, const Modification& modification)
{
    Qp& qp = *_qps.find(id);
    if (modification.to_reset) {
        // [virtio-rdma REQ-4]
        qp.sq.reset(_memory);
        if (qp.rq.array().entries() > 0) {
            qp.rq.reset(_memory);
        }
        qp.has_mtu = false;
        return;
    }
    qp.has_mtu |= modification.sets_mtu;
    if (modification.has_state) {
        // [virtio-rdma QUE-5]
        // QUE-5: entries of the queues may be taken now that no doorbell has told of.
        _backend.send_doorbell(id);
        _backend.recv_doorbell(id);
    }
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::query_qp(Command& command)
{
    auto id = find_qp(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    ibv_qp_attr attr{};
    Mac dmac{};
    if (int error = _backend.query_qp(*id, attr, dmac)) {
        return status_of(error);
    }
    virtio_rdma_query_qp_reply reply{{VIRTIO_RDMA_OK, 0}, encode_attributes(attr, dmac)};
    if (!_qps.find(*id)->has_mtu) {
        reply.attributes.path_mtu = 0;
    }
    command.answer(reply);
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::destroy_qp(Command& command)
{
    auto id = find_qp(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    int error = _backend.destroy_qp(*id);
    if (error == 0) {
        const Qp& qp = *_qps.find(*id);
        _num_pages -= qp.num_pages();
        use_context(qp.context, -1);
        // [virtio-rdma CTL-22] [virtio-rdma EVT-4]
        forget_events(qp.pending_events, qp.qpn);
        _qp_ids.erase(qp.qpn);
        _qps.erase(*id);
    }
    return status_of(error);
}

} // namespace rdma
