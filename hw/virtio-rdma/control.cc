// SPDX-License-Identifier: GPL-2.0-or-later
//
// The control queue (docs/virtio-rdma/control.md): the table of commands, and those of contexts,
// PDs, regions and GIDs. Each handler checks in the order of the statuses, and all before it
// changes anything.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "command.h"
#include "eui64.h"
#include "gid.h"
#include "port_attributes.h"

namespace rdma {

using namespace virtio;

namespace {

constexpr uint32_t most_message_size = 1u << 31; // that the specification allows
constexpr uint16_t untagged = 0;

bool is_usable_gid(const ibv_gid& gid)
{
    static constexpr ibv_gid zero{};
    constexpr uint8_t v4_multicast = 0xe0; // 224.0.0.0/4
    bool is_multicast =
        gid.raw[0] == 0xff || (is_v4_mapped(gid) && (gid.raw[12] & 0xf0) == v4_multicast);
    return !same_gid(gid, zero) && !is_multicast;
}

bool is_usable_mac(const Mac& mac)
{
    return mac != Mac{} && (mac[0] & 1) == 0;
}

} // namespace

const VirtioRdmaDevice::CommandEntry* VirtioRdmaDevice::find_command(uint32_t number)
{
    using D = VirtioRdmaDevice;
    constexpr size_t header = sizeof(virtio_rdma_request);
    constexpr size_t reply = sizeof(virtio_rdma_reply);
    constexpr int none = -1;
    constexpr int srq = VIRTIO_RDMA_F_SRQ;
    static constexpr CommandEntry table[] = {
        {VIRTIO_RDMA_QUERY_DEVICE, header, false, sizeof(virtio_rdma_limits), none, false,
         &D::query_device},
        {VIRTIO_RDMA_QUERY_COUNTERS, header, false, sizeof(virtio_rdma_counters), none, false,
         &D::query_counters},
        {VIRTIO_RDMA_CREATE_CONTEXT, header, false, reply, none, false, &D::create_context},
        {VIRTIO_RDMA_DESTROY_CONTEXT, header, false, reply, none, true, &D::destroy_context},
        {VIRTIO_RDMA_CREATE_PD, header, false, reply, none, false, &D::create_pd},
        {VIRTIO_RDMA_DESTROY_PD, header, false, reply, none, true, &D::destroy_pd},
        {VIRTIO_RDMA_CREATE_MR, sizeof(virtio_rdma_create_mr), true,
         sizeof(virtio_rdma_create_mr_reply), none, false, &D::create_mr},
        {VIRTIO_RDMA_DESTROY_MR, header, false, reply, none, true, &D::destroy_mr},
        {VIRTIO_RDMA_CREATE_CQ, sizeof(virtio_rdma_create_cq), true, reply, none, false,
         &D::create_cq},
        {VIRTIO_RDMA_DESTROY_CQ, header, false, reply, none, true, &D::destroy_cq},
        {VIRTIO_RDMA_CREATE_SRQ, sizeof(virtio_rdma_create_srq), true, reply, srq, false,
         &D::create_srq},
        {VIRTIO_RDMA_ARM_SRQ, sizeof(virtio_rdma_arm_srq), false, reply, srq, false, &D::arm_srq},
        {VIRTIO_RDMA_QUERY_SRQ, header, false, sizeof(virtio_rdma_query_srq_reply), srq, false,
         &D::query_srq},
        {VIRTIO_RDMA_DESTROY_SRQ, header, false, reply, srq, true, &D::destroy_srq},
        {VIRTIO_RDMA_CREATE_QP, sizeof(virtio_rdma_create_qp), true, reply, none, false,
         &D::create_qp},
        {VIRTIO_RDMA_MODIFY_QP, sizeof(virtio_rdma_modify_qp), false, reply, none, false,
         &D::modify_qp},
        {VIRTIO_RDMA_QUERY_QP, header, false, sizeof(virtio_rdma_query_qp_reply), none, false,
         &D::query_qp},
        {VIRTIO_RDMA_DESTROY_QP, header, false, reply, none, true, &D::destroy_qp},
        {VIRTIO_RDMA_ADD_GID, sizeof(virtio_rdma_add_gid), false, reply, none, false, &D::add_gid},
        {VIRTIO_RDMA_DELETE_GID, header, false, reply, none, false, &D::delete_gid},
    };
    static_assert(std::ranges::all_of(
        table, [](const CommandEntry& entry) { return entry.reply_size <= RDMA_MAX_REPLY; }));
    static_assert(std::ranges::is_sorted(table, {}, &CommandEntry::number) &&
                  std::size(table) == VIRTIO_RDMA_DELETE_GID + 1);
    return number < std::size(table) ? &table[number] : nullptr;
}

std::optional<size_t> VirtioRdmaDevice::execute(uint64_t tag, std::span<const uint8_t> request,
                                                std::span<uint8_t> reply)
{
    ++_stats.commands;
    Command command{request, tag, {}, {}, reply.size()};
    // [virtio-rdma CTL-6]
    if (reply.size() < sizeof(virtio_rdma_reply)) {
        return 0; // CTL-6
    }
    Status status = VIRTIO_RDMA_ERR_LENGTH;
    size_t size = sizeof(virtio_rdma_reply);
    if (request.size() >= sizeof(virtio_rdma_request)) {
        std::memcpy(&command.header, request.data(), sizeof(command.header));
        const CommandEntry* entry = find_command(command.header.command);
        if (!entry || (entry->feature >= 0 &&
                       !has_feature(_features, static_cast<unsigned>(entry->feature)))) {
            status = VIRTIO_RDMA_ERR_COMMAND;
        } else if ((entry->has_addresses ? request.size() < entry->request_size
                                         : request.size() != entry->request_size) ||
                   reply.size() < entry->reply_size) {
            status = VIRTIO_RDMA_ERR_LENGTH;
        } else if (_has_failed && !entry->is_destruction) {
            status = VIRTIO_RDMA_ERR_DEVICE;
        } else if (must_wait(*entry, command)) {
            return std::nullopt;
        } else {
            size = entry->reply_size;
            command.reply = reply.first(size);
            std::ranges::fill(command.reply, uint8_t{0});
            auto result = (this->*entry->execute)(command);
            if (!result) {
                return std::nullopt;
            }
            status = *result;
        }
    }
    // [virtio-rdma CTL-6]
    if (status != VIRTIO_RDMA_OK) {
        guest_error(_stats.guest_command_errors, "command {} failed with status {}",
                    command.header.command, static_cast<unsigned>(status));
        size = sizeof(virtio_rdma_reply);
        virtio_rdma_reply failed{static_cast<uint32_t>(status), 0};
        std::memcpy(reply.data(), &failed, size);
    }
    return size;
}

int64_t VirtioRdmaDevice::command(uint64_t tag, std::span<const uint8_t> request,
                                  std::span<uint8_t> reply)
{
    size_t late_before = _replies.size();
    auto size = execute(tag, request, reply);
    if (!size) {
        return -EINPROGRESS;
    }
    // It has ended the wait of another, whose reply is before it.
    if (_replies.size() > late_before && *size > 0) {
        add_reply({tag, static_cast<uint32_t>(reply.size()), {}}, reply.first(*size));
        return -EINPROGRESS;
    }
    return static_cast<int64_t>(*size);
}

// Whether the command is about a queue pair whose MODIFY_QP waits: it is behind that one then.
// One that ends the wait does so here.
// [virtio-rdma CTL-20]
bool VirtioRdmaDevice::must_wait(const CommandEntry& entry, const Command& command)
{
    bool is_of_qp = entry.number == VIRTIO_RDMA_MODIFY_QP ||
                    entry.number == VIRTIO_RDMA_QUERY_QP || entry.number == VIRTIO_RDMA_DESTROY_QP;
    if (_waiting.empty() || !is_of_qp) {
        return false;
    }
    auto id = find_qp(command.header.object);
    auto waiting = id ? _waiting.find(*id) : _waiting.end();
    if (waiting == _waiting.end()) {
        return false;
    }
    bool ends = entry.number == VIRTIO_RDMA_DESTROY_QP;
    if (entry.number == VIRTIO_RDMA_MODIFY_QP) {
        auto attributes = command.fields<virtio_rdma_modify_qp>().attributes;
        ends = (attributes.mask & VIRTIO_RDMA_ATTR_STATE) != 0 &&
               (attributes.state == VIRTIO_RDMA_QP_RESET || attributes.state == VIRTIO_RDMA_QP_ERR);
    }
    if (ends) {
        end_wait(*id, ECANCELED);
        return must_wait(entry, command);
    }
    waiting->second.behind.push_back(command.deferred());
    return true;
}

// The queue pair's MODIFY_QP has been carried out, or not; and those behind it go on.
void VirtioRdmaDevice::end_wait(uint32_t id, int error)
{
    auto node = _waiting.extract(id);
    Waiting& waiting = node.mapped();
    virtio_rdma_reply reply{static_cast<uint32_t>(status_of(error)), 0};
    if (error == 0) {
        has_been_modified(id, waiting.modification);
    }
    add_reply(waiting.first, {reinterpret_cast<const uint8_t*>(&reply), sizeof(reply)});
    for (const Deferred& next : waiting.behind) {
        carry_out(next);
    }
}

void VirtioRdmaDevice::carry_out(const Deferred& command)
{
    std::array<uint8_t, RDMA_MAX_REPLY> room;
    auto bytes = std::span(room).first(std::min<size_t>(command.room, room.size()));
    if (auto size = execute(command.tag, command.request, bytes)) {
        add_reply(command, bytes.first(*size));
    }
}

// Commands that waited where the state was saved (MIG-1) begin anew.
void VirtioRdmaDevice::repeat_loaded()
{
    for (const auto& [qp, waiting] : std::exchange(_waiting, {})) {
        carry_out(waiting.first);
        for (const Deferred& next : waiting.behind) {
            carry_out(next);
        }
    }
}

void VirtioRdmaDevice::modified(uint32_t id, int error)
{
    if (_waiting.contains(id)) {
        end_wait(id, error);
    }
}

VirtioRdmaDevice::Status VirtioRdmaDevice::status_of(int error)
{
    switch (error) {
    case 0:
        return VIRTIO_RDMA_OK;
    case EINVAL:
        return VIRTIO_RDMA_ERR_INVALID;
    case ENOENT:
        return VIRTIO_RDMA_ERR_OBJECT;
    case EBUSY:
        return VIRTIO_RDMA_ERR_BUSY;
    case ENOMEM:
        return VIRTIO_RDMA_ERR_LIMIT;
    default:
        return VIRTIO_RDMA_ERR_DEVICE;
    }
}

bool VirtioRdmaDevice::are_memory(std::span<const uint64_t> pages) const
{
    return std::ranges::all_of(
        pages, [this](uint64_t page) { return _memory.is_memory(page, page_size); });
}

virtio_rdma_limits VirtioRdmaDevice::limits()
{
    if (!_guid) {
        _guid = _config.node_guid ? std::byteswap(_config.node_guid)
                                  : eui64_of(_host.nic_info().mac);
    }
    Features features = _backend.features();
    auto port = _backend.host_port();
    virtio_rdma_limits limits{};
    std::memcpy(limits.node_guid, &*_guid, sizeof(limits.node_guid));
    limits.max_mr_size = _config.max_mr_size;
    limits.page_sizes = page_size;
    limits.max_pd = _config.max_pd;
    limits.max_mr = _config.max_mr;
    limits.max_mr_pages = max_mr_pages(_config);
    if (has_feature(_features, VIRTIO_RDMA_F_FAST_REGISTRATION)) {
        limits.max_fast_registration_pages = max_fast_reg_pages;
    }
    limits.max_pages = static_cast<uint32_t>(max_pages_registered);
    limits.max_cq = _config.max_cq;
    limits.max_cq_entries = _config.max_cqe;
    if (has_feature(_features, VIRTIO_RDMA_F_SRQ)) {
        limits.max_srq = _config.max_srq;
        limits.max_srq_entries = _config.max_srq_wr;
    }
    limits.max_qp = _config.max_qp;
    limits.max_sq_entries = _config.max_qp_wr;
    limits.max_rq_entries = _config.max_qp_wr;
    limits.max_message_size =
        port ? std::min(port->max_msg_sz, most_message_size) : max_message_size;
    limits.max_sges = static_cast<uint16_t>(_config.max_sge);
    limits.max_inline = static_cast<uint16_t>(std::min(_config.max_inline, features.max_inline));
    limits.max_dest_rd_atomic = static_cast<uint16_t>(_config.max_qp_rd_atom);
    limits.max_rd_atomic = static_cast<uint16_t>(_config.max_qp_init_rd_atom);
    limits.num_gids = static_cast<uint16_t>(_config.gid_tbl_len);
    limits.max_mtu = max_mtu();
    limits.ack_delay = ca_ack_delay;
    return limits;
}

uint8_t VirtioRdmaDevice::max_mtu() const
{
    static_assert(VIRTIO_RDMA_MTU_256 == +IBV_MTU_256 && VIRTIO_RDMA_MTU_4096 == +IBV_MTU_4096);
    auto port = _backend.host_port();
    return static_cast<uint8_t>(port ? port->active_mtu : IBV_MTU_4096);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::query_device(Command& command)
{
    if (command.header.object != 0) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    command.answer(limits());
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::query_counters(Command& command)
{
    if (command.header.object != 0) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    virtio_rdma_counters counters{};
    std::ranges::fill(counters.counters, VIRTIO_RDMA_NOT_COUNTED);
    // What a host's device does it counts itself.
    if (!_backend.host_port()) {
        auto& out = counters.counters;
        out[VIRTIO_RDMA_SENT_PACKETS] = _stats.tx_packets;
        out[VIRTIO_RDMA_RECEIVED_PACKETS] = _stats.rx_packets;
        out[VIRTIO_RDMA_DROPPED_PACKETS] =
            _stats.drop_malformed + _stats.drop_icrc + _stats.drop_vlan + _stats.drop_unknown_qp +
            _stats.drop_qp_state + _stats.drop_peer_mismatch + _stats.drop_pkey +
            _stats.drop_qkey + _stats.drop_opcode + _stats.drop_sequence + _stats.drop_length;
        out[VIRTIO_RDMA_DUPLICATE_REQUESTS] = _stats.duplicate_requests;
        out[VIRTIO_RDMA_OUT_OF_SEQUENCE] = _stats.out_of_sequence_requests;
        out[VIRTIO_RDMA_SEQUENCE_NAKS] = _stats.sequence_naks_received;
        out[VIRTIO_RDMA_RNR_NAKS_SENT] = _stats.rnr_naks_sent;
        out[VIRTIO_RDMA_RNR_NAKS_RECEIVED] = _stats.rnr_naks_received;
        out[VIRTIO_RDMA_TIMEOUTS] = _stats.timeouts;
        out[VIRTIO_RDMA_RETRIES_EXCEEDED] = _stats.retries_exceeded;
    }
    command.answer(counters);
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::create_context(Command& command)
{
    uint32_t number = command.header.object;
    if (!_contexts.is_id(number)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    return _contexts.insert(number, Context{}) ? VIRTIO_RDMA_OK : VIRTIO_RDMA_ERR_BUSY;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::destroy_context(Command& command)
{
    uint32_t number = command.header.object;
    if (!_contexts.is_id(number)) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    const Context* context = _contexts.find(number);
    if (!context) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    if (context->users > 0) {
        return VIRTIO_RDMA_ERR_BUSY;
    }
    // [virtio-rdma CTL-11]
    _contexts.erase(number);
    return VIRTIO_RDMA_OK;
}

void VirtioRdmaDevice::use_context(uint32_t number, int change)
{
    if (Context* context = _contexts.find(number)) {
        context->users += static_cast<uint32_t>(change);
    }
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::create_pd(Command& command)
{
    if (command.header.object != 0) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    auto id = _backend.alloc_pd();
    if (!id) {
        return status_of(id.error());
    }
    command.answer_object(_pds.insert(*id, Pd{}));
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::destroy_pd(Command& command)
{
    auto id = _pds.id_of(command.header.object);
    if (!id) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    int error = _backend.dealloc_pd(*id);
    if (error == 0) {
        _pds.erase(*id);
    }
    return status_of(error);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::create_mr(Command& command)
{
    auto fields = command.fields<virtio_rdma_create_mr>();
    MrInit init;
    uint64_t num_pages = 0;   // that follow
    uint64_t pages_held = 0;  // that count for max_pages
    bool has_fast_registration = has_feature(_features, VIRTIO_RDMA_F_FAST_REGISTRATION);
    switch (fields.type) {
    case VIRTIO_RDMA_MR_PAGES:
        init.kind = MrInit::Kind::user;
        init.iova = fields.iova;
        init.length = fields.length;
        if (fields.length == 0 || fields.length > _config.max_mr_size ||
            fields.iova + (fields.length - 1) < fields.iova) {
            return VIRTIO_RDMA_ERR_INVALID;
        }
        num_pages = (fields.iova % page_size + fields.length - 1) / page_size + 1;
        if (num_pages > max_mr_pages(_config)) {
            return VIRTIO_RDMA_ERR_INVALID;
        }
        pages_held = num_pages;
        break;
    case VIRTIO_RDMA_MR_DMA:
        init.kind = MrInit::Kind::dma;
        break;
    case VIRTIO_RDMA_MR_FAST_REGISTRATION:
        init.kind = MrInit::Kind::fast_reg;
        pages_held = fields.length / page_size;
        init.max_pages = static_cast<uint32_t>(std::min<uint64_t>(pages_held, UINT32_MAX));
        break;
    default:
        return VIRTIO_RDMA_ERR_INVALID;
    }
    auto pages = command.addresses<virtio_rdma_create_mr>(num_pages);
    if (!pages) {
        return VIRTIO_RDMA_ERR_LENGTH;
    }
    bool is_valid = fields.reserved == 0 && fields.page_shift == page_shift &&
                    decode_access(fields.access, _features, init.access) && are_aligned(*pages);
    if (init.kind == MrInit::Kind::user) {
        is_valid = is_valid && is_access_of_region(init.access);
    } else if (init.kind == MrInit::Kind::dma) {
        is_valid = is_valid && fields.iova == 0 && fields.length == 0 &&
                   (init.access & ~IBV_ACCESS_LOCAL_WRITE) == 0;
    } else {
        is_valid = is_valid && has_fast_registration && fields.iova == 0 && init.access == 0 &&
                   fields.length % page_size == 0 && pages_held >= 1 &&
                   pages_held <= max_fast_reg_pages;
    }
    if (!is_valid) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    auto pd = _pds.id_of(command.header.object);
    if (!pd) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    if (_mrs.size() >= _config.max_mr || !has_room_for(pages_held)) {
        return VIRTIO_RDMA_ERR_LIMIT;
    }
    if (!are_memory(*pages)) {
        return VIRTIO_RDMA_ERR_ADDRESS;
    }
    init.pd = *pd;
    init.pages = *pages;
    auto keys = _backend.reg_mr(init);
    if (!keys) {
        // What may be registered at all has been checked above.
        return keys.error() == ENOMEM ? VIRTIO_RDMA_ERR_LIMIT : VIRTIO_RDMA_ERR_DEVICE;
    }
    _mrs.insert(keys->id, Mr{pages_held});
    _num_pages += pages_held;
    command.answer(virtio_rdma_create_mr_reply{{VIRTIO_RDMA_OK, keys->id}, keys->lkey, keys->rkey});
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::destroy_mr(Command& command)
{
    uint32_t id = command.header.object;
    const Mr* mr = _mrs.find(id);
    if (!mr) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    int error = _backend.dereg_mr(id);
    if (error == 0) {
        _num_pages -= mr->num_pages;
        _mrs.erase(id);
    }
    return status_of(error);
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::add_gid(Command& command)
{
    auto fields = command.fields<virtio_rdma_add_gid>();
    uint32_t index = command.header.object;
    ibv_gid gid;
    Mac mac;
    std::copy_n(fields.gid, sizeof(fields.gid), gid.raw);
    std::copy_n(fields.mac, sizeof(fields.mac), mac.begin());
    bool has_vlan = fields.vlan != VIRTIO_RDMA_NO_VLAN;
    if (index >= _gids.size() || !is_usable_gid(gid) || !is_usable_mac(mac) ||
        (has_vlan && (fields.vlan < first_vlan || fields.vlan > last_vlan))) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    if (_gids[index]) {
        return VIRTIO_RDMA_ERR_BUSY;
    }
    constexpr uint32_t roce_v2 = 2;
    if (_backend.add_gid(index, gid, roce_v2, has_vlan ? fields.vlan : untagged) != 0) {
        return VIRTIO_RDMA_ERR_DEVICE;
    }
    _gids[index] = true;
    return VIRTIO_RDMA_OK;
}

std::optional<VirtioRdmaDevice::Status> VirtioRdmaDevice::delete_gid(Command& command)
{
    uint32_t index = command.header.object;
    if (index >= _gids.size()) {
        return VIRTIO_RDMA_ERR_INVALID;
    }
    if (!_gids[index]) {
        return VIRTIO_RDMA_ERR_OBJECT;
    }
    int error = _backend.del_gid(index);
    if (error == 0) {
        _gids[index] = false;
    }
    return error == 0 ? VIRTIO_RDMA_OK : VIRTIO_RDMA_ERR_DEVICE;
}

} // namespace rdma
