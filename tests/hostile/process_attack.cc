// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>
#include <infiniband/verbs.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <vector>

#include "attacks.h"

namespace hostile {

namespace {

constexpr size_t page_size = 4096;

// Writable mappings of this process, by address.
struct Mapping {
    uintptr_t end;
    bool anonymous; // and not the heap or a stack
    bool device;    // of an RDMA device: a doorbell page
};
std::map<uintptr_t, Mapping> mappings()
{
    std::map<uintptr_t, Mapping> found;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        uintptr_t begin = 0;
        uintptr_t end = 0;
        char rights[5] = "";
        if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, rights) == 3 && rights[1] == 'w') {
            found[begin] = {end, line.find_first_of("/[") == line.npos,
                            line.find("/dev/infiniband/uverbs") != line.npos};
        }
    }
    return found;
}

using Words = std::span<volatile uint32_t>;

Words words_of(uintptr_t begin, uintptr_t end)
{
    return {reinterpret_cast<volatile uint32_t*>(begin), (end - begin) / sizeof(uint32_t)};
}

// Pages of an mmap that the library has made meanwhile: the queues that it
// shares with the device.
std::vector<Words> new_memory(const std::map<uintptr_t, Mapping>& before)
{
    std::vector<Words> found;
    auto known = [&](uintptr_t page) {
        auto it = before.upper_bound(page);
        return it != before.begin() && page < std::prev(it)->second.end;
    };
    for (const auto& [begin, mapping] : mappings()) {
        for (uintptr_t page = begin; page < mapping.end && mapping.anonymous; page += page_size) {
            if (!known(page)) {
                found.push_back(words_of(page, page + page_size));
            }
        }
    }
    return found;
}

class ProcessAttack {
public:
    explicit ProcessAttack(const Options& options) : _options(options), _random(options.seed)
    {
        open_device();
    }

    void run()
    {
        fmt::print("attacking\n");
        std::fflush(stdout);
        uint64_t rounds = 0;
        for (; !stopped(_options); ++rounds) {
            round();
        }
        fmt::print("{} rounds, {} words written, {} doorbells\n", rounds, _written, _doorbells);
    }

private:
    template <typename T>
    static T* made(T* object, const char* what)
    {
        if (!object) {
            throw Error(fmt::format("{}: {}", what, std::strerror(errno)));
        }
        return object;
    }
    static void expect(int error, const char* what)
    {
        if (error != 0) {
            throw Error(fmt::format("{}: {}", what, std::strerror(error)));
        }
    }

    void open_device()
    {
        int count = 0;
        ibv_device** list = ibv_get_device_list(&count);
        for (int i = 0; i < count; ++i) {
            if (_options.device == ibv_get_device_name(list[i])) {
                _context = made(ibv_open_device(list[i]), "ibv_open_device");
            }
        }
        ibv_free_device_list(list);
        made(_context, _options.device.c_str());
        _pd = made(ibv_alloc_pd(_context), "ibv_alloc_pd");
        _buffer.resize(16 * page_size);
        _mr = made(ibv_reg_mr(_pd, _buffer.data(), _buffer.size(),
                              IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                  IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC),
                   "ibv_reg_mr");
        for (const auto& [begin, mapping] : mappings()) {
            if (mapping.device) {
                _uar = words_of(begin, mapping.end);
            }
        }
        if (_uar.empty()) {
            throw Error("the library has no doorbell page mapped");
        }
        if (ibv_query_gid(_context, 1, _options.gid_index, &_gid) != 0) {
            throw Error("no such GID");
        }
    }

    // Two QPs connected to each other, with work; then their queues are written
    // over, and the doorbells rung, for as long as the fancy lasts.
    void round()
    {
        auto before = mappings();
        ibv_cq* cq = made(ibv_create_cq(_context, 128, nullptr, nullptr, 0), "ibv_create_cq");
        ibv_qp_init_attr init{};
        init.send_cq = init.recv_cq = cq;
        init.cap = {32, 32, 4, 4, 0};
        init.qp_type = _random() % 4 ? IBV_QPT_RC : IBV_QPT_UD;
        ibv_qp* qps[2];
        for (ibv_qp*& qp : qps) {
            qp = made(ibv_create_qp(_pd, &init), "ibv_create_qp");
        }
        for (int i = 0; i < 2; ++i) {
            connect(qps[i], qps[1 - i]->qp_num);
        }
        std::vector<Words> queues = new_memory(before);
        if (queues.empty()) {
            throw Error("the library's queues were not found");
        }
        for (ibv_qp* qp : qps) {
            post(qp);
        }
        uint64_t actions = 200 + _random() % 2000;
        for (uint64_t i = 0; i < actions; ++i) {
            act(queues, qps[_random() % 2]->handle);
        }
        for (ibv_qp* qp : qps) {
            expect(ibv_destroy_qp(qp), "ibv_destroy_qp");
        }
        expect(ibv_destroy_cq(cq), "ibv_destroy_cq");
    }

    void act(const std::vector<Words>& queues, uint32_t handle)
    {
        if (_random() % 4 == 0) {
            // Its own objects' doorbells, anybody's, any value.
            uint32_t value = awkward(_random);
            if (_random() % 2) {
                value = (value & 0xe0000000) | (_random() % 2 ? handle : value % 64);
            }
            size_t word = _random() % 4 ? _random() % 3 : _random() % _uar.size();
            _uar[word] = value;
            ++_doorbells;
            return;
        }
        Words page = queues[_random() % queues.size()];
        // The first words of a page may be indices.
        size_t word = _random() % 3 == 0 ? _random() % 4 : _random() % page.size();
        page[word] = _random() % 2 ? awkward(_random) : page[word] + 1;
        ++_written;
    }

    void connect(ibv_qp* qp, uint32_t peer)
    {
        bool datagram = qp->qp_type == IBV_QPT_UD;
        ibv_qp_attr attr{};
        attr.qp_state = IBV_QPS_INIT;
        attr.port_num = 1;
        attr.qkey = 0x11111111;
        attr.qp_access_flags =
            IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
        expect(ibv_modify_qp(qp, &attr,
                             IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                                 (datagram ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS)),
               "to INIT");
        attr.qp_state = IBV_QPS_RTR;
        attr.path_mtu = IBV_MTU_1024;
        attr.dest_qp_num = peer;
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 4;
        attr.min_rnr_timer = 1;
        attr.timeout = 8;
        attr.retry_cnt = attr.rnr_retry = 1;
        attr.ah_attr.is_global = 1;
        attr.ah_attr.grh.dgid = _gid;
        attr.ah_attr.grh.sgid_index = static_cast<uint8_t>(_options.gid_index);
        attr.ah_attr.grh.hop_limit = 64;
        attr.ah_attr.port_num = 1;
        expect(ibv_modify_qp(qp, &attr,
                             datagram ? IBV_QP_STATE
                                      : IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
                                            IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                            IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
               "to RTR");
        attr.qp_state = IBV_QPS_RTS;
        expect(ibv_modify_qp(qp, &attr,
                             datagram ? IBV_QP_STATE | IBV_QP_SQ_PSN
                                      : IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT |
                                            IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                            IBV_QP_MAX_QP_RD_ATOMIC),
               "to RTS");
    }

    void post(ibv_qp* qp)
    {
        ibv_sge sge{reinterpret_cast<uint64_t>(_buffer.data()), 3000, _mr->lkey};
        ibv_recv_wr recv{};
        recv.sg_list = &sge;
        recv.num_sge = 1;
        ibv_recv_wr* bad_recv;
        for (int i = 0; i < 16; ++i) {
            ibv_post_recv(qp, &recv, &bad_recv);
        }
        if (qp->qp_type == IBV_QPT_UD) {
            return;
        }
        ibv_send_wr send{};
        send.sg_list = &sge;
        send.num_sge = 1;
        send.opcode = IBV_WR_SEND;
        send.send_flags = IBV_SEND_SIGNALED;
        ibv_send_wr* bad_send;
        for (int i = 0; i < 8; ++i) {
            ibv_post_send(qp, &send, &bad_send);
        }
    }

    const Options& _options;
    Random _random;
    ibv_context* _context = nullptr;
    ibv_pd* _pd = nullptr;
    ibv_mr* _mr = nullptr;
    std::vector<uint8_t> _buffer;
    Words _uar;
    ibv_gid _gid{};
    uint64_t _written = 0;
    uint64_t _doorbells = 0;
};

} // namespace

void attack_from_process(const Options& options)
{
    ProcessAttack(options).run();
}

} // namespace hostile
