// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every command of the control queue (docs/virtio-rdma/control.md), right and wrong in one place:
// each wrong length, number, address, value and reserved field, and what must not be in the state
// that things are in. Each gets the specification's status and leaves everything as it was.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "virtio_rdma_guest.h"

namespace rdma::test {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint32_t used_context = 100; // no other kind has such a number
constexpr uint32_t never_used = 0x7ffffe;
constexpr uint64_t no_memory = uint64_t{1} << 40;

enum class Kind { context, pd, mr, cq, srq, qp };
constexpr size_t num_kinds = 6;

uint32_t status_of(std::span<const uint8_t> reply)
{
    uint32_t status = UINT32_MAX;
    std::memcpy(&status, reply.data(), std::min(sizeof(status), reply.size()));
    return status;
}

struct Wrong {
    std::string what;
    Bytes request;
    uint32_t status;
};

// A command with all that it names, how long its reply is, and what is wrong with it in turn.
struct Row {
    Bytes right;
    size_t reply;
    bool has_addresses = false;
    std::vector<Wrong> wrong{};

    template <typename Request>
    void add(const char* what, uint32_t status, const std::function<void(Request&)>& change)
    {
        Bytes request = right;
        Request fields;
        std::memcpy(&fields, request.data(), sizeof(fields));
        change(fields);
        std::memcpy(request.data(), &fields, sizeof(fields));
        wrong.push_back({what, request, status});
    }
    void add_object(const char* what, uint32_t object, uint32_t status)
    {
        add<virtio_rdma_request>(what, status, [&](auto& header) { header.object = object; });
    }
};

// A device with one object of each kind, which others use, and one of each that nobody does.
class VirtioRdmaCommands : public ::testing::Test {
protected:
    VirtioRdmaCommands() : VirtioRdmaCommands(VirtioGuest::defaults()) {}
    explicit VirtioRdmaCommands(const VirtioRdmaConfig& config) : guest(1, config)
    {
        guest.bring_up();
        require(VIRTIO_RDMA_CREATE_CONTEXT, used_context);
        require(VIRTIO_RDMA_CREATE_CONTEXT, used_context + 1);
        pd = guest.create_pd();
        for (int i = 0; i < 4; ++i) {
            spare[index(Kind::pd)] = guest.create_pd();
        }
        mr = guest.register_ram(pd, guest.ram.pages(1), page_size);
        cq = guest.create_cq();
        spare_cq = guest.create_cq();
        srq = guest.create_srq(pd, 64, 32, used_context);
        spare[index(Kind::srq)] = guest.create_srq(pd, 64, 32, 0).number;
        qp = guest.create_qp(
            pd, cq, {.flags = VIRTIO_RDMA_QP_USES_SRQ, .context = used_context, .srq = srq.number});
        connected = guest.create_qp(pd, cq, {.context = used_context});
        guest.connect(connected, 2, 5);
        spare[index(Kind::context)] = used_context + 1;
        spare[index(Kind::mr)] = mr.number;
        spare[index(Kind::cq)] = spare_cq.number;
        spare[index(Kind::qp)] = connected.qpn;
        destroy_one_of_each();
    }

    static size_t index(Kind kind) { return static_cast<size_t>(kind); }
    void require(uint32_t command, uint32_t object)
    {
        VirtioGuest::require(guest.simple(command, object), "a command of the header");
    }
    void destroy_one_of_each()
    {
        require(VIRTIO_RDMA_CREATE_CONTEXT, used_context + 2);
        require(VIRTIO_RDMA_DESTROY_CONTEXT, destroyed[index(Kind::context)] = used_context + 2);
        require(VIRTIO_RDMA_DESTROY_PD, destroyed[index(Kind::pd)] = guest.create_pd());
        destroyed[index(Kind::mr)] = guest.register_ram(pd, guest.ram.pages(1), page_size).number;
        require(VIRTIO_RDMA_DESTROY_MR, destroyed[index(Kind::mr)]);
        require(VIRTIO_RDMA_DESTROY_CQ, destroyed[index(Kind::cq)] = guest.create_cq().number);
        require(VIRTIO_RDMA_DESTROY_SRQ, destroyed[index(Kind::srq)] = guest.create_srq(pd).number);
        require(VIRTIO_RDMA_DESTROY_QP, destroyed[index(Kind::qp)] = guest.create_qp(pd, cq).qpn);
    }

    // All that a command could have changed, as far as the driver can see.
    Bytes snapshot()
    {
        Bytes all;
        auto take = [&](uint32_t command, uint32_t object, size_t room) {
            auto reply =
                guest.send(bytes_of(virtio_rdma_request{command, object}), room);
            all.insert(all.end(), reply.begin(), reply.end());
        };
        for (const char* name : {"contexts", "pds", "mrs", "cqs", "srqs", "qps"}) {
            all.push_back(static_cast<uint8_t>(guest.statistic(name)));
        }
        take(VIRTIO_RDMA_QUERY_DEVICE, 0, sizeof(virtio_rdma_limits));
        take(VIRTIO_RDMA_QUERY_SRQ, srq.number, sizeof(virtio_rdma_query_srq_reply));
        for (uint32_t qpn : {qp.qpn, connected.qpn}) {
            take(VIRTIO_RDMA_QUERY_QP, qpn, sizeof(virtio_rdma_query_qp_reply));
        }
        EXPECT_FALSE(guest.event());
        return all;
    }

    // Number of an object that is not there, in a place of the request that is set by change.
    template <typename Request>
    void add_numbers(Row& row, Kind kind, const char* what,
                     const std::function<void(Request&, uint32_t)>& change)
    {
        std::vector<std::pair<const char*, uint32_t>> numbers = {
            {"never used", never_used},
            {"above all numbers", UINT32_MAX},
            {"destroyed", destroyed[index(kind)]},
            {"of another kind", number_of_another(kind)}};
        if (kind != Kind::context) {
            numbers.emplace_back("0", 0);
        }
        for (auto [which, number] : numbers) {
            row.add<Request>((std::string(what) + " " + which).c_str(), VIRTIO_RDMA_ERR_OBJECT,
                             [&](Request& request) { change(request, number); });
        }
    }
    // One that names an object of another kind and none of this one.
    uint32_t number_of_another(Kind kind) { return kind == Kind::context ? pd : used_context; }

    // Addresses of an entry's or region's page, each wrong in turn.
    void add_pages(Row& row, size_t fields)
    {
        auto with = [&](const char* what, uint64_t address, uint32_t status) {
            for (size_t at : {fields, row.right.size() - sizeof(address)}) {
                Bytes request = row.right;
                std::memcpy(request.data() + at, &address, sizeof(address));
                row.wrong.push_back({what, request, status});
            }
        };
        with("a page of no memory", no_memory, VIRTIO_RDMA_ERR_ADDRESS);
        with("a page behind all RAM", Ram::base + ram_size, VIRTIO_RDMA_ERR_ADDRESS);
        with("the last page there can be", ~uint64_t{page_size - 1}, VIRTIO_RDMA_ERR_ADDRESS);
        with("a page that is not aligned", Ram::base + 8, VIRTIO_RDMA_ERR_INVALID);
        with("a page that is not aligned and no memory", no_memory + 1, VIRTIO_RDMA_ERR_INVALID);
        Bytes more = row.right;
        more.insert(more.end(), row.right.end() - sizeof(uint64_t), row.right.end());
        row.wrong.push_back({"a page too many", more, VIRTIO_RDMA_ERR_LENGTH});
        Bytes fewer(row.right.begin(), row.right.end() - sizeof(uint64_t));
        row.wrong.push_back({"a page too few", fewer, VIRTIO_RDMA_ERR_LENGTH});
    }

    Row header_row(uint32_t command, uint32_t object, size_t reply = sizeof(virtio_rdma_reply))
    {
        return {bytes_of(virtio_rdma_request{command, object}), reply};
    }
    // A command of the header alone that is about an object.
    Row object_row(uint32_t command, Kind kind, uint32_t object,
                   size_t reply = sizeof(virtio_rdma_reply))
    {
        Row row = header_row(command, object, reply);
        add_numbers<virtio_rdma_request>(row, kind, "an object",
                                         [](auto& header, uint32_t n) { header.object = n; });
        return row;
    }
    Row objectless_row(uint32_t command, size_t reply = sizeof(virtio_rdma_reply))
    {
        Row row = header_row(command, 0, reply);
        for (uint32_t object : {1u, pd, UINT32_MAX}) {
            row.add_object("an object where there is none", object, VIRTIO_RDMA_ERR_INVALID);
        }
        return row;
    }
    Row context_row(uint32_t command, uint32_t right)
    {
        Row row = header_row(command, right);
        row.add_object("the driver's own context", 0, VIRTIO_RDMA_ERR_INVALID);
        row.add_object("a context without a page", 512, VIRTIO_RDMA_ERR_INVALID);
        row.add_object("a context far above", UINT32_MAX, VIRTIO_RDMA_ERR_INVALID);
        row.add_object("a context in use", used_context, VIRTIO_RDMA_ERR_BUSY);
        return row;
    }
    Row create_mr_row();
    Row create_cq_row();
    Row create_srq_row();
    Row arm_srq_row();
    Row create_qp_row();
    Row modify_qp_row();
    Row add_gid_row();

    // A command that is not here does not compile with warnings as errors.
    Row row_of(virtio_rdma_command command)
    {
        switch (command) {
        case VIRTIO_RDMA_QUERY_DEVICE:
            return objectless_row(command, sizeof(virtio_rdma_limits));
        case VIRTIO_RDMA_QUERY_COUNTERS:
            return objectless_row(command, sizeof(virtio_rdma_counters));
        case VIRTIO_RDMA_CREATE_CONTEXT:
            return context_row(command, 511);
        case VIRTIO_RDMA_DESTROY_CONTEXT: {
            Row row = context_row(command, used_context + 1);
            row.add_object("never used", 77, VIRTIO_RDMA_ERR_OBJECT);
            row.add_object("destroyed", destroyed[index(Kind::context)], VIRTIO_RDMA_ERR_OBJECT);
            return row;
        }
        case VIRTIO_RDMA_CREATE_PD:
            return objectless_row(command);
        case VIRTIO_RDMA_DESTROY_PD: {
            Row row = object_row(command, Kind::pd, spare[index(Kind::pd)]);
            row.add_object("a PD in use", pd, VIRTIO_RDMA_ERR_BUSY);
            return row;
        }
        case VIRTIO_RDMA_CREATE_MR:
            return create_mr_row();
        case VIRTIO_RDMA_DESTROY_MR:
            return object_row(command, Kind::mr, mr.number);
        case VIRTIO_RDMA_CREATE_CQ:
            return create_cq_row();
        case VIRTIO_RDMA_DESTROY_CQ: {
            Row row = object_row(command, Kind::cq, spare_cq.number);
            row.add_object("a CQ in use", cq.number, VIRTIO_RDMA_ERR_BUSY);
            return row;
        }
        case VIRTIO_RDMA_CREATE_SRQ:
            return create_srq_row();
        case VIRTIO_RDMA_ARM_SRQ:
            return arm_srq_row();
        case VIRTIO_RDMA_QUERY_SRQ:
            return object_row(command, Kind::srq, srq.number, sizeof(virtio_rdma_query_srq_reply));
        case VIRTIO_RDMA_DESTROY_SRQ: {
            Row row = object_row(command, Kind::srq, spare[index(Kind::srq)]);
            row.add_object("an SRQ in use", srq.number, VIRTIO_RDMA_ERR_BUSY);
            return row;
        }
        case VIRTIO_RDMA_CREATE_QP:
            return create_qp_row();
        case VIRTIO_RDMA_MODIFY_QP:
            return modify_qp_row();
        case VIRTIO_RDMA_QUERY_QP:
            return object_row(command, Kind::qp, qp.qpn, sizeof(virtio_rdma_query_qp_reply));
        case VIRTIO_RDMA_DESTROY_QP:
            return object_row(command, Kind::qp, qp.qpn);
        case VIRTIO_RDMA_ADD_GID:
            return add_gid_row();
        case VIRTIO_RDMA_DELETE_GID: {
            Row row = header_row(command, 0);
            row.add_object("an index without a GID", 1, VIRTIO_RDMA_ERR_OBJECT);
            row.add_object("no index", 64, VIRTIO_RDMA_ERR_INVALID);
            row.add_object("an index far above", UINT32_MAX, VIRTIO_RDMA_ERR_INVALID);
            return row;
        }
        }
        return {};
    }

    void expect_refused(const char* what, const Bytes& request, size_t room, uint32_t status)
    {
        Bytes before = snapshot();
        auto reply = guest.send(request, room);
        // [virtio-rdma CTL-6] [virtio-rdma CTL-7]
        ASSERT_EQ(reply.size(), sizeof(virtio_rdma_reply)) << what;
        EXPECT_EQ(status_of(reply), status) << what;
        uint32_t object;
        std::memcpy(&object, reply.data() + sizeof(status), sizeof(object));
        EXPECT_EQ(object, 0u) << what;
        EXPECT_EQ(snapshot(), before) << what << " has left something behind";
    }

    static constexpr uint64_t ram_size = 64 << 20;

    VirtioGuest guest;
    uint32_t pd = 0;
    GuestMr mr;
    GuestCq cq, spare_cq;
    GuestWorkQueue srq;
    GuestQp qp, connected;
    std::array<uint32_t, num_kinds> spare{};     // in use by nobody
    std::array<uint32_t, num_kinds> destroyed{}; // each was there
};

Row VirtioRdmaCommands::create_mr_row()
{
    using Mr = virtio_rdma_create_mr;
    uint64_t page = guest.ram.pages(2);
    Mr right{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_PAGES, 12, 0,
             VIRTIO_RDMA_LOCAL_WRITE,     page + page_size - 8, 16};
    Row row{bytes_of(right, VirtioGuest::page_list(page, 2)),
            sizeof(virtio_rdma_create_mr_reply), true};
    add_pages(row, sizeof(right));
    add_numbers<Mr>(row, Kind::pd, "a PD", [](Mr& m, uint32_t n) { m.request.object = n; });
    auto invalid = [&](const char* what, const std::function<void(Mr&)>& change) {
        row.add<Mr>(what, VIRTIO_RDMA_ERR_INVALID, change);
    };
    for (int shift : {0, 11, 13, 21, 63, 64, 255}) {
        invalid("page_shift", [&](Mr& m) { m.page_shift = static_cast<uint8_t>(shift); });
    }
    for (int bit = 4; bit < 32; ++bit) {
        invalid("a right that does not exist", [&](Mr& m) { m.access |= 1u << bit; });
    }
    for (int bit = 0; bit < 16; ++bit) {
        invalid("reserved", [&](Mr& m) { m.reserved = static_cast<uint16_t>(1u << bit); });
    }
    for (int type : {3, 4, 128, 255}) {
        invalid("type", [&](Mr& m) { m.type = static_cast<uint8_t>(type); });
    }
    invalid("REMOTE_WRITE alone", [](Mr& m) { m.access = VIRTIO_RDMA_REMOTE_WRITE; });
    invalid("REMOTE_ATOMIC alone", [](Mr& m) { m.access = VIRTIO_RDMA_REMOTE_ATOMIC; });
    invalid("length 0", [](Mr& m) { m.length = 0; });
    invalid("length above the limit", [](Mr& m) { m.length = (uint64_t{4} << 30) + 1; });
    invalid("the greatest length", [](Mr& m) { m.length = UINT64_MAX; });
    invalid("a region over the end", [](Mr& m) { m.iova = UINT64_MAX - 14; });
    row.add<Mr>("a length of one page", VIRTIO_RDMA_ERR_LENGTH, [](Mr& m) { m.length = 8; });
    row.add<Mr>("a length of three", VIRTIO_RDMA_ERR_LENGTH, [](Mr& m) { m.length = 4105; });
    // Of the other types, which have no pages.
    auto other = [&](const char* what, uint32_t status, Mr m) {
        row.wrong.push_back({what, bytes_of(m), status});
    };
    Mr dma{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_DMA, 12, 0, VIRTIO_RDMA_LOCAL_WRITE, 0, 0};
    Mr fast{{VIRTIO_RDMA_CREATE_MR, pd}, VIRTIO_RDMA_MR_FAST_REGISTRATION, 12, 0, 0, 0, page_size};
    for (Mr m : {dma, fast}) {
        row.wrong.push_back({"a page of a type without", bytes_of(m, {&page, 1}),
                             VIRTIO_RDMA_ERR_LENGTH});
        m.iova = page;
        other("an iova of a type without", VIRTIO_RDMA_ERR_INVALID, m);
        m.iova = 0;
        m.access |= VIRTIO_RDMA_REMOTE_READ;
        other("a right of a type without", VIRTIO_RDMA_ERR_INVALID, m);
        m.access &= VIRTIO_RDMA_LOCAL_WRITE;
        m.request.object = never_used;
        other("no PD", VIRTIO_RDMA_ERR_OBJECT, m);
        m.page_shift = 13;
        other("page_shift", VIRTIO_RDMA_ERR_INVALID, m);
    }
    dma.length = page_size;
    other("a length of a region for DMA", VIRTIO_RDMA_ERR_INVALID, dma);
    for (uint64_t length :
         {uint64_t{0}, page_size - 1, page_size + 8, page_size * 513, UINT64_MAX - page_size + 1}) {
        fast.length = length;
        other("length of a region for fast registration", VIRTIO_RDMA_ERR_INVALID, fast);
    }
    return row;
}

Row VirtioRdmaCommands::create_cq_row()
{
    using Create = virtio_rdma_create_cq;
    uint64_t state = guest.ram.pages(1);
    Create right{{VIRTIO_RDMA_CREATE_CQ, 0}, 128, 0, state};
    Row row{bytes_of(right, VirtioGuest::page_list(guest.ram.pages(2), 2)),
            sizeof(virtio_rdma_reply), true};
    add_pages(row, sizeof(right));
    for (uint32_t vector : {2u, 7u, 8u, 30u, 31u, 32u, 64u, UINT32_MAX}) {
        row.add_object("no such completion event queue", vector, VIRTIO_RDMA_ERR_INVALID);
    }
    for (uint32_t entries : {0u, 3u, 127u, 262145u, 524288u, 1u << 31, UINT32_MAX}) {
        row.add<Create>("entries", VIRTIO_RDMA_ERR_INVALID,
                        [&](Create& c) { c.entries = entries; });
    }
    row.add<Create>("entries of one page", VIRTIO_RDMA_ERR_LENGTH,
                    [](Create& c) { c.entries = 64; });
    row.add<Create>("entries of four pages", VIRTIO_RDMA_ERR_LENGTH,
                    [](Create& c) { c.entries = 256; });
    for (int bit = 0; bit < 32; ++bit) {
        row.add<Create>("reserved", VIRTIO_RDMA_ERR_INVALID,
                        [&](Create& c) { c.reserved = 1u << bit; });
    }
    for (uint64_t offset : {1u, 4u, 8u, 64u}) {
        row.add<Create>("a state that is not aligned", VIRTIO_RDMA_ERR_INVALID,
                        [&](Create& c) { c.state += offset; });
    }
    for (uint64_t address : {uint64_t{0}, no_memory, Ram::base + ram_size, ~uint64_t{127}}) {
        row.add<Create>("a state of no memory", VIRTIO_RDMA_ERR_ADDRESS,
                        [&](Create& c) { c.state = address; });
    }
    return row;
}

Row VirtioRdmaCommands::create_srq_row()
{
    using Create = virtio_rdma_create_srq;
    uint64_t state = guest.ram.pages(1);
    Create right{{VIRTIO_RDMA_CREATE_SRQ, pd}, used_context, 128, 64, state};
    Row row{bytes_of(right, VirtioGuest::page_list(guest.ram.pages(2), 2)),
            sizeof(virtio_rdma_reply), true};
    add_pages(row, sizeof(right));
    add_numbers<Create>(row, Kind::pd, "a PD", [](Create& c, uint32_t n) { c.request.object = n; });
    add_numbers<Create>(row, Kind::context, "a context",
                        [](Create& c, uint32_t n) { c.context = n; });
    auto invalid = [&](const char* what, const std::function<void(Create&)>& change) {
        row.add<Create>(what, VIRTIO_RDMA_ERR_INVALID, change);
    };
    for (int entries : {0, 3, 127, 32769, 65535}) {
        invalid("entries", [&](Create& c) { c.entries = static_cast<uint16_t>(entries); });
    }
    for (int size : {0, 1, 16, 48, 63, 8192, 32768, 65535}) {
        invalid("entry_size", [&](Create& c) { c.entry_size = static_cast<uint16_t>(size); });
    }
    row.add<Create>("entries of one page", VIRTIO_RDMA_ERR_LENGTH,
                    [](Create& c) { c.entries = 64; });
    row.add<Create>("entries of four pages", VIRTIO_RDMA_ERR_LENGTH,
                    [](Create& c) { c.entry_size = 128; });
    for (uint64_t offset : {1u, 4u, 8u, 64u}) {
        invalid("a state that is not aligned", [&](Create& c) { c.state += offset; });
    }
    for (uint64_t address : {uint64_t{0}, no_memory, Ram::base + ram_size, ~uint64_t{127}}) {
        row.add<Create>("a state of no memory", VIRTIO_RDMA_ERR_ADDRESS,
                        [&](Create& c) { c.state = address; });
    }
    return row;
}

Row VirtioRdmaCommands::arm_srq_row()
{
    using Arm = virtio_rdma_arm_srq;
    Row row{bytes_of(Arm{{VIRTIO_RDMA_ARM_SRQ, spare[index(Kind::srq)]}, 0, 0}),
            sizeof(virtio_rdma_reply)};
    add_numbers<Arm>(row, Kind::srq, "an SRQ", [](Arm& a, uint32_t n) { a.request.object = n; });
    for (uint32_t limit : {65u, 32769u, UINT32_MAX}) {
        row.add<Arm>("a limit above the entries", VIRTIO_RDMA_ERR_INVALID,
                     [&](Arm& a) { a.limit = limit; });
    }
    for (int bit = 0; bit < 32; ++bit) {
        row.add<Arm>("reserved", VIRTIO_RDMA_ERR_INVALID, [&](Arm& a) { a.reserved = 1u << bit; });
    }
    return row;
}

Row VirtioRdmaCommands::create_qp_row()
{
    using Create = virtio_rdma_create_qp;
    uint64_t states = guest.ram.pages(1);
    Create right{};
    right.request = {VIRTIO_RDMA_CREATE_QP, pd};
    right.context = used_context;
    right.type = VIRTIO_RDMA_QP_RC;
    right.send_cq = right.recv_cq = cq.number;
    right.sq_entries = right.rq_entries = 64;
    right.sq_entry_size = right.rq_entry_size = 128;
    right.sq_state = states;
    right.rq_state = states + VIRTIO_RDMA_STATE_ALIGNMENT;
    auto pages = VirtioGuest::page_list(guest.ram.pages(4), 4);
    Row row{bytes_of(right, pages), sizeof(virtio_rdma_reply), true};
    add_pages(row, sizeof(right));
    add_numbers<Create>(row, Kind::pd, "a PD", [](Create& c, uint32_t n) { c.request.object = n; });
    add_numbers<Create>(row, Kind::context, "a context",
                        [](Create& c, uint32_t n) { c.context = n; });
    add_numbers<Create>(row, Kind::cq, "a send CQ", [](Create& c, uint32_t n) { c.send_cq = n; });
    add_numbers<Create>(row, Kind::cq, "a receive CQ",
                        [](Create& c, uint32_t n) { c.recv_cq = n; });
    auto invalid = [&](const char* what, const std::function<void(Create&)>& change) {
        row.add<Create>(what, VIRTIO_RDMA_ERR_INVALID, change);
    };
    for (int type : {0, +VIRTIO_RDMA_QP_UC, 5, 255}) {
        invalid("type", [&](Create& c) { c.type = static_cast<uint8_t>(type); });
    }
    invalid("a GSI queue pair of a process", [](Create& c) { c.type = VIRTIO_RDMA_QP_GSI; });
    for (int bit = 2; bit < 8; ++bit) {
        invalid("a flag that does not exist",
                [&](Create& c) { c.flags = static_cast<uint8_t>(1u << bit); });
    }
    for (int bit = 0; bit < 16; ++bit) {
        invalid("reserved", [&](Create& c) { c.reserved = static_cast<uint16_t>(1u << bit); });
    }
    for (int bit = 0; bit < 32; ++bit) {
        invalid("reserved2", [&](Create& c) { c.reserved2 = 1u << bit; });
    }
    for (int entries : {0, 3, 63, 32769, 65535}) {
        auto wrong = static_cast<uint16_t>(entries);
        invalid("sq_entries", [&](Create& c) { c.sq_entries = wrong; });
        invalid("rq_entries", [&](Create& c) { c.rq_entries = wrong; });
    }
    for (int size : {0, 16, 96, 127, 8192, 32768, 65535}) {
        auto wrong = static_cast<uint16_t>(size);
        invalid("sq_entry_size", [&](Create& c) { c.sq_entry_size = wrong; });
        invalid("rq_entry_size", [&](Create& c) { c.rq_entry_size = wrong; });
    }
    invalid("send entries of 32 bytes", [](Create& c) { c.sq_entry_size = 32; });
    invalid("an SRQ without the flag", [&](Create& c) { c.srq = srq.number; });
    invalid("the flag and a receive queue", [&](Create& c) {
        c.flags = VIRTIO_RDMA_QP_USES_SRQ;
        c.srq = srq.number;
    });
    row.add<Create>("three pages", VIRTIO_RDMA_ERR_LENGTH, [](Create& c) { c.sq_entries = 32; });
    row.add<Create>("six pages", VIRTIO_RDMA_ERR_LENGTH, [](Create& c) { c.rq_entry_size = 256; });
    for (uint64_t offset : {1u, 4u, 8u, 64u}) {
        invalid("a send queue's state that is not aligned",
                [&](Create& c) { c.sq_state += offset; });
        invalid("a receive queue's state that is not aligned",
                [&](Create& c) { c.rq_state += offset; });
    }
    for (uint64_t address : {uint64_t{0}, no_memory, Ram::base + ram_size, ~uint64_t{127}}) {
        row.add<Create>("a send queue's state of no memory", VIRTIO_RDMA_ERR_ADDRESS,
                        [&](Create& c) { c.sq_state = address; });
        row.add<Create>("a receive queue's state of no memory", VIRTIO_RDMA_ERR_ADDRESS,
                        [&](Create& c) { c.rq_state = address; });
    }
    // With an SRQ.
    Create shared = right;
    shared.flags = VIRTIO_RDMA_QP_USES_SRQ;
    shared.rq_entries = shared.rq_entry_size = 0;
    shared.rq_state = 0;
    pages.resize(2);
    for (uint32_t number :
         {0u, never_used, destroyed[index(Kind::srq)], used_context, UINT32_MAX}) {
        shared.srq = number;
        row.wrong.push_back(
            {"no SRQ", bytes_of(shared, pages), VIRTIO_RDMA_ERR_OBJECT});
    }
    shared.srq = srq.number;
    shared.rq_state = right.rq_state;
    row.wrong.push_back({"a receive queue's state with an SRQ",
                         bytes_of(shared, pages), VIRTIO_RDMA_ERR_INVALID});
    return row;
}

// [virtio-rdma REQ-3]
Row VirtioRdmaCommands::modify_qp_row()
{
    using Modify = virtio_rdma_modify_qp;
    Modify right{{VIRTIO_RDMA_MODIFY_QP, qp.qpn}, {}};
    right.attributes.mask = VIRTIO_RDMA_ATTR_STATE | VIRTIO_RDMA_ATTR_ACCESS;
    right.attributes.state = VIRTIO_RDMA_QP_INIT;
    Row row{bytes_of(right), sizeof(virtio_rdma_reply)};
    add_numbers<Modify>(row, Kind::qp, "a queue pair",
                        [](Modify& m, uint32_t n) { m.request.object = n; });
    row.add_object("more bits than a QPN has", qp.qpn | 1u << 24, VIRTIO_RDMA_ERR_OBJECT);
    // Of the queue pair in RESET.
    for (uint8_t state :
         {VIRTIO_RDMA_QP_RTR, VIRTIO_RDMA_QP_RTS, VIRTIO_RDMA_QP_SQD, VIRTIO_RDMA_QP_SQE}) {
        row.add<Modify>("no such transition", VIRTIO_RDMA_ERR_STATE,
                        [&](Modify& m) { m.attributes.state = state; });
    }
    auto invalid = [&](const char* what, const std::function<void(Modify&)>& change) {
        row.add<Modify>(what, VIRTIO_RDMA_ERR_INVALID, change);
    };
    for (int state : {7, 8, 255}) {
        invalid("state", [&](Modify& m) { m.attributes.state = static_cast<uint8_t>(state); });
    }
    for (int bit : {14, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}) {
        invalid("an attribute that does not exist",
                [&](Modify& m) { m.attributes.mask |= 1u << bit; });
    }
    for (int bit = 1; bit < 18; ++bit) {
        if (bit != 2) { // ACCESS
            invalid("an attribute that the transition does not have",
                    [&](Modify& m) { m.attributes.mask |= 1u << bit; });
        }
    }
    invalid("an attribute that is missing",
            [](Modify& m) { m.attributes.mask = VIRTIO_RDMA_ATTR_STATE; });
    for (int bit = 0; bit < 8; ++bit) {
        invalid("reserved",
                [&](Modify& m) { m.attributes.reserved = static_cast<uint8_t>(1u << bit); });
    }
    for (int bit = 4; bit < 32; ++bit) {
        invalid("a right that does not exist", [&](Modify& m) { m.attributes.access = 1u << bit; });
    }
    // Of the queue pair in RTS: values out of range come before what the transition has.
    auto of_connected = [&](const char* what, uint32_t status, virtio_rdma_qp_attributes a) {
        row.wrong.push_back(
            {what, bytes_of(Modify{{VIRTIO_RDMA_MODIFY_QP, connected.qpn}, a}),
             status});
    };
    for (uint8_t state : {VIRTIO_RDMA_QP_INIT, VIRTIO_RDMA_QP_RTR, VIRTIO_RDMA_QP_SQE}) {
        of_connected("no such transition from RTS", VIRTIO_RDMA_ERR_STATE,
                     {.mask = VIRTIO_RDMA_ATTR_STATE, .state = state});
    }
    of_connected("another present state", VIRTIO_RDMA_ERR_STATE,
                 {.mask = VIRTIO_RDMA_ATTR_STATE | VIRTIO_RDMA_ATTR_CURRENT_STATE,
                  .state = VIRTIO_RDMA_QP_SQD,
                  .current_state = VIRTIO_RDMA_QP_RTR});
    of_connected("a present state that does not exist", VIRTIO_RDMA_ERR_INVALID,
                 {.mask = VIRTIO_RDMA_ATTR_CURRENT_STATE, .current_state = 7});
    of_connected("min_rnr_timer", VIRTIO_RDMA_ERR_INVALID,
                 {.mask = VIRTIO_RDMA_ATTR_MIN_RNR_TIMER, .min_rnr_timer = 32});
    of_connected("sqd_event", VIRTIO_RDMA_ERR_INVALID,
                 {.mask = VIRTIO_RDMA_ATTR_STATE | VIRTIO_RDMA_ATTR_SQD_EVENT,
                  .state = VIRTIO_RDMA_QP_SQD,
                  .sqd_event = 2});
    return row;
}

Row VirtioRdmaCommands::add_gid_row()
{
    using Add = virtio_rdma_add_gid;
    Add right{{VIRTIO_RDMA_ADD_GID, 63}, {}, {}, VIRTIO_RDMA_NO_VLAN};
    std::ranges::copy(VirtioGuest::gid_of(9).raw, right.gid);
    std::ranges::copy(VirtioGuest::mac_of(9), right.mac);
    Row row{bytes_of(right), sizeof(virtio_rdma_reply)};
    row.add_object("an index that is taken", 0, VIRTIO_RDMA_ERR_BUSY);
    row.add_object("no index", 64, VIRTIO_RDMA_ERR_INVALID);
    row.add_object("an index far above", UINT32_MAX, VIRTIO_RDMA_ERR_INVALID);
    auto invalid = [&](const char* what, const std::function<void(Add&)>& change) {
        row.add<Add>(what, VIRTIO_RDMA_ERR_INVALID, change);
    };
    invalid("a GID of 0", [](Add& a) { std::ranges::fill(a.gid, uint8_t{0}); });
    invalid("a GID that is multicast", [](Add& a) { a.gid[0] = 0xff; });
    invalid("a GID that is multicast IPv4", [](Add& a) { a.gid[12] = 239; });
    invalid("a MAC of 0", [](Add& a) { std::ranges::fill(a.mac, uint8_t{0}); });
    invalid("a MAC that is multicast", [](Add& a) { a.mac[0] |= 1; });
    for (int vlan : {0, 4095, 4096, 0x8001, 0xfffe}) {
        invalid("vlan", [&](Add& a) { a.vlan = static_cast<uint16_t>(vlan); });
    }
    return row;
}

constexpr auto last_command = VIRTIO_RDMA_DELETE_GID;

TEST_F(VirtioRdmaCommands, EachThatTheDeviceKnowsHasARow)
{
    for (uint32_t number = 0; number < 1024; ++number) {
        auto reply = guest.send(bytes_of(virtio_rdma_request{number, never_used}), 8);
        bool is_known = status_of(reply) != VIRTIO_RDMA_ERR_COMMAND;
        ASSERT_EQ(is_known, number <= last_command) << number;
        if (is_known) {
            ASSERT_FALSE(row_of(static_cast<virtio_rdma_command>(number)).right.empty()) << number;
        }
    }
}

class EachVirtioRdmaCommand : public VirtioRdmaCommands,
                              public ::testing::WithParamInterface<uint32_t> {
protected:
    Row row = row_of(static_cast<virtio_rdma_command>(GetParam()));
};

TEST_P(EachVirtioRdmaCommand, ThatIsWrongInOnePlaceIsRefusedAndLeavesNothingBehind)
{
    EXPECT_GT(row.wrong.size(), 2u);
    for (const Wrong& wrong : row.wrong) {
        expect_refused(wrong.what.c_str(), wrong.request, 256, wrong.status);
    }
    EXPECT_EQ(status_of(guest.send(row.right, row.reply)), VIRTIO_RDMA_OK);
}

TEST_P(EachVirtioRdmaCommand, OfAnotherLengthIsRefusedAndLeavesNothingBehind)
{
    for (size_t size = 0; size < row.right.size(); ++size) {
        Bytes request(row.right.begin(), row.right.begin() + static_cast<ptrdiff_t>(size));
        expect_refused("short", request, 256, VIRTIO_RDMA_ERR_LENGTH);
    }
    for (size_t more : {size_t{1}, size_t{7}, size_t{8}, size_t{4096}, size_t{1} << 20}) {
        Bytes request = row.right;
        request.resize(request.size() + more);
        expect_refused("long", request, 256, VIRTIO_RDMA_ERR_LENGTH);
    }
    for (size_t room = sizeof(virtio_rdma_reply); room < row.reply; ++room) {
        expect_refused("no room for the reply", row.right, room, VIRTIO_RDMA_ERR_LENGTH);
    }
    Bytes before = snapshot();
    for (size_t room = 0; room < sizeof(virtio_rdma_reply); ++room) {
        // [virtio-rdma CTL-6]
        EXPECT_EQ(guest.send(row.right, room).size(), 0u); // CTL-6
    }
    EXPECT_EQ(snapshot(), before);
    auto reply = guest.send(row.right, 256);
    // [virtio-rdma CTL-7]
    EXPECT_EQ(reply.size(), row.reply); // CTL-7
    EXPECT_EQ(status_of(reply), VIRTIO_RDMA_OK);
}

std::string name_of(const ::testing::TestParamInfo<uint32_t>& info)
{
    return "Command" + std::to_string(info.param);
}
INSTANTIATE_TEST_SUITE_P(ControlQueue, EachVirtioRdmaCommand,
                         ::testing::Range(uint32_t{0}, uint32_t{last_command} + 1), name_of);

} // namespace
} // namespace rdma::test
