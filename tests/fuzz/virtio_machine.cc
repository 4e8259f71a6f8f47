// SPDX-License-Identifier: GPL-2.0-or-later
#include "virtio_machine.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

namespace rdma::fuzz {

namespace {

constexpr std::byte canary{0xc5};
constexpr uint32_t cq_entry_size = sizeof(virtio_rdma_cq_entry);
constexpr uint32_t send_entry_size = 128;
constexpr uint32_t receive_entry_size = 64;
constexpr uint32_t qkey = 0x11111111;

size_t pages_for(uint32_t entry_size, uint32_t entries)
{
    return (size_t{entry_size} * entries + page_size - 1) / page_size;
}

// Zeros where the request is shorter.
virtio_rdma_request header_of(std::span<const uint8_t> request)
{
    virtio_rdma_request header{};
    std::ranges::copy(request.first(std::min(sizeof(header), request.size())),
                      reinterpret_cast<uint8_t*>(&header));
    return header;
}

} // namespace

const CommandShape* find_shape(uint32_t command)
{
    using K = Kind;
    constexpr size_t header = 8;
    // By hand from the specification.
    static constexpr CommandShape shapes[] = {
        {header, false, 96, K::none, K::none},        // QUERY_DEVICE
        {header, false, 88, K::none, K::none},        // QUERY_COUNTERS
        {header, false, header, K::context, K::none}, // CREATE_CONTEXT
        {header, false, header, K::none, K::context}, // DESTROY_CONTEXT
        {header, false, header, K::pd, K::none},      // CREATE_PD
        {header, false, header, K::none, K::pd},      // DESTROY_PD
        {32, true, 16, K::mr, K::none},               // CREATE_MR
        {header, false, header, K::none, K::mr},      // DESTROY_MR
        {24, true, header, K::cq, K::none},           // CREATE_CQ
        {header, false, header, K::none, K::cq},      // DESTROY_CQ
        {24, true, header, K::srq, K::none},          // CREATE_SRQ
        {16, false, header, K::none, K::none},        // ARM_SRQ
        {header, false, 16, K::none, K::none},        // QUERY_SRQ
        {header, false, header, K::none, K::srq},     // DESTROY_SRQ
        {56, true, header, K::qp, K::none},           // CREATE_QP
        {76, false, header, K::none, K::none},        // MODIFY_QP
        {header, false, 76, K::none, K::none},        // QUERY_QP
        {header, false, header, K::none, K::qp},      // DESTROY_QP
        {32, false, header, K::gid, K::none},         // ADD_GID
        {header, false, header, K::none, K::gid},     // DELETE_GID
    };
    return command < std::size(shapes) ? &shapes[command] : nullptr;
}

VirtioRdmaConfig default_virtio_config()
{
    VirtioRdmaConfig config;
    virtio_rdma_config_default(&config);
    return config;
}

VirtioMachine::VirtioMachine(uint8_t host, const VirtioRdmaConfig& config)
    : DeviceMachine(host), _config(config)
{
    for (uint64_t gpa : {ram, more_ram}) {
        uint64_t size = gpa == ram ? ram_size : more_ram_size;
        std::fill_n(at(gpa, size), size, canary);
    }
    plug();
}

VirtioMachine::~VirtioMachine()
{
    unplug();
    expect_canaries();
}

RdmaDevice* VirtioMachine::create_device(const RdmaHostOps& host_ops, void* opaque)
{
    char* error = nullptr;
    return virtio_rdma_device_create(&_config, nullptr, &host_ops, opaque, &error);
}

std::vector<uint64_t> VirtioMachine::device_pages(size_t count)
{
    auto list = pages(count);
    for (uint64_t gpa : list) {
        _known.set(page_index(gpa));
    }
    // One that nobody has, until the memory has been handed out once.
    uint64_t between = page();
    if (!_known.test(page_index(between))) {
        std::fill_n(at(between, page_size), page_size, canary);
    }
    return list;
}

bool VirtioMachine::may_write(uint64_t gpa, uint64_t size)
{
    for (uint64_t i = page_index(gpa); size > 0 && i <= page_index(gpa + size - 1); ++i) {
        if (!_known.test(i)) {
            return false;
        }
    }
    return true;
}

void VirtioMachine::expect_canaries()
{
    for (size_t i = 0; i < num_pages; ++i) {
        const std::byte* bytes = at(ram + i * page_size, page_size);
        if (!_known.test(i) &&
            std::any_of(bytes, bytes + page_size, [](std::byte byte) { return byte != canary; })) {
            // [virtio-rdma SEC-3]
            broken("memory that the device has not been told of was written");
        }
    }
}

void VirtioMachine::note_addresses(std::span<const uint8_t> request)
{
    auto header = header_of(request);
    // A region for DMA has all memory; one for fast registration what an array names, which may
    // be anything by the time that the device reads it.
    virtio_rdma_create_mr mr{};
    if (header.command == VIRTIO_RDMA_CREATE_MR && request.size() >= sizeof(mr)) {
        std::memcpy(&mr, request.data(), sizeof(mr));
        if (mr.type != VIRTIO_RDMA_MR_PAGES) {
            _known.set();
        }
    }
    for (size_t at_word = sizeof(header); at_word + sizeof(uint64_t) <= request.size();
         at_word += sizeof(uint64_t)) {
        uint64_t word;
        std::memcpy(&word, request.data() + at_word, sizeof(word));
        uint64_t gpa = word / page_size * page_size;
        if (at(gpa, page_size)) {
            _known.set(page_index(gpa));
        }
    }
}

// The objects' numbers come last, in the order of Kind.
VirtioMachine::Counts VirtioMachine::counts()
{
    Counts counts{};
    rdma_device_statistics(
        device(),
        [](void* opaque, const char*, uint64_t value) {
            auto& last = *static_cast<Counts*>(opaque);
            std::ranges::rotate(last, last.begin() + 1);
            last.back() = value;
        },
        &counts);
    return counts;
}

std::optional<uint32_t> VirtioMachine::send(std::span<const uint8_t> request)
{
    auto header = header_of(request);
    const CommandShape* shape = find_shape(header.command);
    return send(request, shape ? shape->reply : sizeof(virtio_rdma_reply));
}

std::optional<uint32_t> VirtioMachine::send(std::span<const uint8_t> request, size_t room)
{
    if (is_at_work() || !cpu_runs()) {
        return std::nullopt;
    }
    note_addresses(request);
    // Copies of their own, whose ends ASan watches.
    std::unique_ptr<uint8_t[]> in(new uint8_t[request.size()]);
    std::unique_ptr<uint8_t[]> out(new uint8_t[room]);
    std::ranges::copy(request, in.get());
    Counts before = counts();
    unsigned life = lives();
    int64_t written;
    {
        Working working(this);
        written = rdma_device_command(device(), ++_tag, in.get(), request.size(), out.get(), room);
    }
    if (lives() != life || written == -EINPROGRESS) {
        return std::nullopt; // reset or unplugged meanwhile; behind one that was loaded and waited
    }
    virtio_rdma_reply reply{};
    if ((written == 0) != (room < sizeof(reply)) || written < 0 ||
        static_cast<uint64_t>(written) > room) {
        // [virtio-rdma CTL-6] [virtio-rdma CTL-7]
        broken("the length of a reply (CTL-6, CTL-7)");
    }
    if (written == 0) {
        return std::nullopt;
    }
    std::memcpy(&reply, out.get(), sizeof(reply));
    if (reply.status > VIRTIO_RDMA_ERR_DEVICE) {
        broken("a status that does not exist");
    }
    if (reply.status != VIRTIO_RDMA_OK) {
        if (written != sizeof(reply) || reply.object != 0) {
            // [virtio-rdma CTL-6]
            broken("a command that failed has been answered otherwise (CTL-6)");
        }
        if (counts() != before) {
            broken("a command that failed has left something behind (CTL-5)");
        }
        return reply.status;
    }
    auto header = header_of(request);
    const CommandShape* shape = find_shape(header.command);
    if (!shape || static_cast<uint64_t>(written) != shape->reply) {
        broken("the length of a reply");
    }
    _reply.assign(out.get(), out.get() + written);
    account(*shape, shape->makes == Kind::context || shape->makes == Kind::gid ||
                            shape->destroys != Kind::none
                        ? header.object
                        : reply.object);
    for (size_t i = 0; i < before.size(); ++i) {
        auto kind = static_cast<Kind>(i);
        before[i] += (kind == shape->makes) - uint64_t{kind == shape->destroys};
    }
    if (counts() != before) {
        broken("a command has made or destroyed something else");
    }
    return reply.status;
}

void VirtioMachine::account(const CommandShape& shape, uint32_t object)
{
    if (!_is_account_kept) {
        return;
    }
    if (shape.makes != Kind::none && !objects_of(shape.makes).insert(object).second) {
        broken("a number has been given twice");
    }
    if (shape.destroys != Kind::none && objects_of(shape.destroys).erase(object) == 0) {
        broken("what does not exist has been destroyed");
    }
}

void VirtioMachine::forget_objects()
{
    for (auto& objects : _objects) {
        objects.clear();
    }
}

void VirtioMachine::distrust_account()
{
    _is_account_kept = false;
    _known.set();
}

void VirtioMachine::destroy_all()
{
    static constexpr std::pair<Kind, uint32_t> order[] = {
        {Kind::qp, VIRTIO_RDMA_DESTROY_QP},  {Kind::srq, VIRTIO_RDMA_DESTROY_SRQ},
        {Kind::cq, VIRTIO_RDMA_DESTROY_CQ},  {Kind::mr, VIRTIO_RDMA_DESTROY_MR},
        {Kind::pd, VIRTIO_RDMA_DESTROY_PD},  {Kind::context, VIRTIO_RDMA_DESTROY_CONTEXT},
        {Kind::gid, VIRTIO_RDMA_DELETE_GID},
    };
    set_features(~uint64_t{0});
    for (auto [kind, command] : order) {
        for (uint32_t number : std::set(objects(kind))) {
            if (send(bytes_of(virtio_rdma_request{command, number})) != VIRTIO_RDMA_OK) {
                broken("what exists cannot be destroyed");
            }
        }
    }
    expect_nothing_left();
}

void VirtioMachine::expect_nothing_left()
{
    if (counts() != Counts{}) {
        broken("something is left behind");
    }
    // Events of what has been destroyed are not sent (EVT-4).
    std::array<uint8_t, RDMA_MAX_REPLY> event;
    for (unsigned queue = VIRTIO_RDMA_VQ_EVENT; queue <= last_vector(); ++queue) {
        if (rdma_device_take_event(device(), queue, event.data()) != 0) {
            broken("an event of what does not exist");
        }
    }
}

void VirtioMachine::bring_up()
{
    set_features(~uint64_t{0});
    set_event_queues(all_event_queues);
    add_gid(0);
}

void VirtioMachine::set_features(uint64_t features)
{
    if (device()) {
        rdma_device_set_features(device(), features & rdma_device_offered_features(device()));
    }
}

void VirtioMachine::set_event_queues(uint32_t queues)
{
    if (cpu_runs()) {
        Working working(this);
        rdma_device_set_event_queues(device(), queues);
    }
}

void VirtioMachine::add_gid(uint32_t index)
{
    virtio_rdma_add_gid request{{VIRTIO_RDMA_ADD_GID, index}, {}, {}, VIRTIO_RDMA_NO_VLAN};
    std::ranges::copy(address_of(host()).dgid, request.gid);
    std::ranges::copy(address_of(host()).dmac, request.mac);
    send(bytes_of(request));
}

uint32_t VirtioMachine::create_pd()
{
    if (send(bytes_of(virtio_rdma_request{VIRTIO_RDMA_CREATE_PD, 0})) != VIRTIO_RDMA_OK) {
        broken("CREATE_PD");
    }
    return made();
}

VirtioCq VirtioMachine::create_cq(uint32_t entries)
{
    VirtioCq cq{0, device_pages(1).front(), device_pages(pages_for(cq_entry_size, entries)),
                entries};
    virtio_rdma_create_cq request{{VIRTIO_RDMA_CREATE_CQ, 0}, entries, 0, cq.state};
    if (send(bytes_of(request, cq.pages)) != VIRTIO_RDMA_OK) {
        broken("CREATE_CQ");
    }
    cq.number = made();
    return cq;
}

virtio_rdma_create_mr_reply
VirtioMachine::register_memory(uint32_t pd, std::span<const uint64_t> list, uint64_t iova)
{
    virtio_rdma_create_mr request{{VIRTIO_RDMA_CREATE_MR, pd},
                                  VIRTIO_RDMA_MR_PAGES,
                                  12,
                                  0,
                                  15,
                                  iova,
                                  list.size() * page_size - iova % page_size};
    if (send(bytes_of(request, list)) != VIRTIO_RDMA_OK) {
        broken("CREATE_MR");
    }
    return reply<virtio_rdma_create_mr_reply>();
}

VirtioQueue VirtioMachine::create_srq(uint32_t pd, uint32_t context, uint32_t entries)
{
    VirtioQueue srq{device_pages(1).front(),
                    device_pages(pages_for(receive_entry_size, entries)),
                    receive_entry_size,
                    entries,
                    context,
                    VIRTIO_RDMA_DOORBELL_SRQ};
    virtio_rdma_create_srq request{{VIRTIO_RDMA_CREATE_SRQ, pd},
                                   context,
                                   static_cast<uint16_t>(entries),
                                   receive_entry_size,
                                   srq.state};
    if (send(bytes_of(request, srq.pages)) != VIRTIO_RDMA_OK) {
        broken("CREATE_SRQ");
    }
    srq.number = made();
    return srq;
}

VirtioQp VirtioMachine::create_qp(uint8_t type, uint32_t pd, uint32_t cq, uint32_t context,
                                  uint32_t entries, std::optional<uint32_t> srq)
{
    VirtioQp qp{.type = type};
    uint64_t states = device_pages(1).front();
    qp.sq = {states, device_pages(pages_for(send_entry_size, entries)), send_entry_size, entries,
             context};
    auto list = qp.sq.pages;
    virtio_rdma_create_qp request{};
    request.request = {VIRTIO_RDMA_CREATE_QP, pd};
    request.context = context;
    request.type = type;
    request.send_cq = request.recv_cq = cq;
    request.sq_entries = static_cast<uint16_t>(entries);
    request.sq_entry_size = send_entry_size;
    request.sq_state = qp.sq.state;
    if (srq) {
        request.flags = VIRTIO_RDMA_QP_USES_SRQ;
        request.srq = *srq;
    } else {
        qp.rq = {states + VIRTIO_RDMA_STATE_ALIGNMENT,
                 device_pages(pages_for(receive_entry_size, entries)),
                 receive_entry_size,
                 entries,
                 context,
                 VIRTIO_RDMA_DOORBELL_RQ};
        request.rq_entries = request.sq_entries;
        request.rq_entry_size = receive_entry_size;
        request.rq_state = qp.rq.state;
        list.insert(list.end(), qp.rq.pages.begin(), qp.rq.pages.end());
    }
    if (send(bytes_of(request, list)) != VIRTIO_RDMA_OK) {
        broken("CREATE_QP");
    }
    qp.qpn = qp.sq.number = qp.rq.number = made();
    return qp;
}

virtio_rdma_av VirtioMachine::address_of(uint8_t host_number)
{
    virtio_rdma_av av{};
    av.hop_limit = 64;
    put_address(host_number, av.dgid, av.dmac);
    return av;
}

void VirtioMachine::connect(const VirtioQp& qp, uint8_t host_number, uint32_t dest_qpn)
{
    virtio_rdma_modify_qp request{{VIRTIO_RDMA_MODIFY_QP, qp.qpn}, {}};
    auto& a = request.attributes;
    a.access = VIRTIO_RDMA_REMOTE_WRITE | VIRTIO_RDMA_REMOTE_READ | VIRTIO_RDMA_REMOTE_ATOMIC;
    a.qkey = qkey;
    a.path_mtu = VIRTIO_RDMA_MTU_256;
    a.dest_qpn = dest_qpn;
    a.max_rd_atomic = a.max_dest_rd_atomic = 4;
    a.min_rnr_timer = 1;
    a.timeout = 8;
    a.retry_count = a.rnr_retry = 3;
    a.av = address_of(host_number);
    bool is_rc = qp.type == VIRTIO_RDMA_QP_RC;
    auto go = [&](uint8_t state, uint32_t mask) {
        a.state = state;
        a.mask = VIRTIO_RDMA_ATTR_STATE | mask;
        send(bytes_of(request));
    };
    go(VIRTIO_RDMA_QP_INIT, +(is_rc ? VIRTIO_RDMA_ATTR_ACCESS : VIRTIO_RDMA_ATTR_QKEY));
    go(VIRTIO_RDMA_QP_RTR, is_rc ? VIRTIO_RDMA_ATTR_AV | VIRTIO_RDMA_ATTR_PATH_MTU |
                                       VIRTIO_RDMA_ATTR_DEST_QPN | VIRTIO_RDMA_ATTR_RQ_PSN |
                                       VIRTIO_RDMA_ATTR_MAX_DEST_RD_ATOMIC |
                                       VIRTIO_RDMA_ATTR_MIN_RNR_TIMER
                                 : 0);
    go(VIRTIO_RDMA_QP_RTS,
       VIRTIO_RDMA_ATTR_SQ_PSN |
           (is_rc ? VIRTIO_RDMA_ATTR_TIMEOUT | VIRTIO_RDMA_ATTR_RETRY_COUNT |
                        VIRTIO_RDMA_ATTR_RNR_RETRY | VIRTIO_RDMA_ATTR_MAX_RD_ATOMIC
                  : 0));
}

void VirtioMachine::publish(const VirtioQueue& queue, const void* entry, size_t size)
{
    auto producer = get<uint32_t>(queue.state);
    uint64_t offset = uint64_t{producer % queue.entries} * queue.entry_size;
    poke(queue.pages[offset / page_size] + offset % page_size, entry,
         std::min<size_t>(size, queue.entry_size));
    put(queue.state, producer + 1);
    ring(queue);
}

void VirtioMachine::ring(const VirtioQueue& queue)
{
    ring(queue.context, VIRTIO_RDMA_DOORBELL(queue.kind, queue.number));
}

void VirtioMachine::ring(uint32_t context, uint32_t value)
{
    write_bar(VIRTIO_RDMA_DOORBELLS, uint64_t{context} * VIRTIO_RDMA_PAGE_SIZE, value);
}

void VirtioMachine::drain(VirtioCq& cq, uint32_t arm)
{
    // A guest that has written phases itself finds no end.
    for (uint32_t i = 0; i < cq.entries; ++i, ++cq.taken) {
        uint64_t offset = uint64_t{cq.taken % cq.entries} * cq_entry_size;
        uint64_t gpa = cq.pages[offset / page_size] + offset % page_size;
        if (get<virtio_rdma_cq_entry>(gpa).phase != ((cq.taken / cq.entries + 1) & 1)) {
            break;
        }
    }
    put(cq.state, cq.taken);
    put(cq.state + offsetof(virtio_rdma_cq_state, arm), ++cq.sequence << 2 | arm);
}

void VirtioMachine::take(unsigned queue)
{
    if (!device()) {
        return;
    }
    std::unique_ptr<uint8_t[]> bytes(new uint8_t[RDMA_MAX_REPLY]);
    uint64_t tag;
    if (queue == VIRTIO_RDMA_VQ_CONTROL) {
        while (device() && rdma_device_take_reply(device(), &tag, bytes.get()) > 0) {
        }
        return;
    }
    while (device()) {
        size_t size = rdma_device_take_event(device(), queue, bytes.get());
        if (size == 0) {
            return;
        }
        virtio_rdma_event event{};
        std::memcpy(&event, bytes.get(), std::min(size, sizeof(event)));
        static constexpr Kind kinds[] = {Kind::none, Kind::cq, Kind::srq, Kind::srq, Kind::qp,
                                         Kind::qp,   Kind::qp, Kind::qp,  Kind::qp,  Kind::qp};
        bool is_async = queue == VIRTIO_RDMA_VQ_EVENT;
        if (size != (is_async ? sizeof(event) : sizeof(virtio_rdma_completion_event)) ||
            (is_async && event.type >= std::size(kinds))) {
            broken("an event that does not exist");
        }
        if (!_is_account_kept) {
            continue;
        }
        Kind kind = is_async ? kinds[event.type] : Kind::cq;
        uint32_t number = is_async ? event.object : event.type; // a CQ is all of the other one
        if (kind == Kind::none || !objects(kind).contains(number)) {
            // [virtio-rdma EVT-4]
            broken("an event of what does not exist (EVT-4)");
        }
    }
}

} // namespace rdma::fuzz
