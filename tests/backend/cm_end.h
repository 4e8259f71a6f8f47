// SPDX-License-Identifier: GPL-2.0-or-later
//
// A device on the verbs backend with a GSI QP that is ready, and the daemon rdmacm-mux.
#pragma once

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <stdexcept>

#include <fmt/format.h>

#include "../cm_messages.h"
#include "backend_test.h"
#include "gid.h"
#include "verbs_backend.h"

namespace rdma::test {

using verbs::HostPort;
using verbs::VerbsBackend;

inline constexpr std::chrono::seconds patience{30};
inline constexpr size_t grh_size = 40;
inline constexpr uint64_t receive_buffer = ram_base + 0x200000;
inline constexpr uint64_t send_buffer = ram_base + 0x400000;
inline constexpr uint64_t buffer_size = 512;
inline constexpr uint64_t num_buffers = 64;

inline const std::string mux_path = "/run/mux-test.sock";

// The daemon as a child. It lies beside this program.
class Daemon {
public:
    ~Daemon() { kill(); }
    void start(const std::string& device = "")
    {
        _pid = fork();
        if (_pid == 0) {
            auto program =
                std::filesystem::read_symlink("/proc/self/exe").parent_path() / "rdmacm-mux";
            if (device.empty()) {
                execl(program.c_str(), "rdmacm-mux", "--socket", mux_path.c_str(), nullptr);
            } else {
                execl(program.c_str(), "rdmacm-mux", "--socket", mux_path.c_str(), "--device",
                      device.c_str(), nullptr);
            }
            _exit(127);
        }
    }
    void kill(int signal = SIGKILL)
    {
        if (_pid > 0) {
            ::kill(_pid, signal);
            waitpid(_pid, nullptr, 0);
            _pid = -1;
        }
    }

private:
    pid_t _pid = -1;
};

inline ibv_gid address_of_port(const HostPort& port)
{
    for (uint32_t i = 0; i < 64; ++i) {
        auto gid = port.gid(i);
        if (gid && is_v4_mapped(*gid) && port.find_gid(*gid, 2) == i) {
            return *gid;
        }
    }
    throw std::runtime_error(port.device_name() + " has no IPv4 address");
}

// A device with a GSI QP that is ready.
class CmEnd {
public:
    CmEnd(const std::string& device, const std::string& mux,
          std::optional<ibv_gid> address = std::nullopt,
          std::optional<int> gid_index = std::nullopt)
    {
        RdmaHostPortConfig config{};
        config.ibdev = device.c_str();
        config.ibport = 1;
        config.gid_index = gid_index.value_or(-1);
        config.add_addresses = true;
        config.gid_allow = "0.0.0.0/0+::/0";
        config.cm_mux = mux.c_str();
        port = std::make_shared<HostPort>(config);
        backend = std::make_unique<VerbsBackend>(port, end.limits, end.memory, end.stats,
                                                 [this](int, std::string_view line) {
                                                     log.emplace_back(line);
                                                     fmt::print(stderr, "log: {}\n", line);
                                                 });
        backend->set_client(end);
        end.gid = address ? *address : address_of_port(*port);
        end.set_up(*backend);
        MrInit dma;
        dma.pd = end.pd;
        dma.kind = MrInit::Kind::dma;
        dma.access = IBV_ACCESS_LOCAL_WRITE;
        _lkey = backend->reg_mr(dma).value().lkey;
        QpInit init = end.qp_init(IBV_QPT_UD);
        init.gsi = true;
        _gsi = backend->create_qp(init).value().id;
        ibv_qp_attr attr{};
        attr.port_num = 1;
        attr.qkey = 0x80010000;
        for (ibv_qp_state state : {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS}) {
            attr.qp_state = state;
            int mask = IBV_QP_STATE;
            mask |= state == IBV_QPS_INIT  ? IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY
                    : state == IBV_QPS_RTS ? IBV_QP_SQ_PSN
                                           : 0;
            EXPECT_EQ(backend->modify_qp(_gsi, attr, mask, {}), 0);
        }
        for (uint64_t i = 0; i < num_buffers - 1; ++i) {
            post_receive(i);
        }
    }

    void send(const ibv_gid& to, const Mad& mad)
    {
        uint64_t at = send_buffer + _sent++ % num_buffers * buffer_size;
        std::ranges::copy(mad.bytes, end.at(at));
        SendRequest request = send_request(IBV_WR_SEND, 1000, at, verbs::mad_size, _lkey);
        request.wr.wr.ud.remote_qpn = 1;
        request.wr.wr.ud.remote_qkey = 0x80010000;
        request.av.attr.is_global = 1;
        request.av.attr.port_num = 1;
        request.av.attr.grh.dgid = to;
        request.av.attr.grh.hop_limit = 64;
        end.post_send(_gsi, request);
    }

    struct Received {
        Mad mad;
        std::array<std::byte, grh_size> grh;
        ibv_wc wc;

        CmKind kind() const { return static_cast<CmKind>(std::to_integer<int>(mad.bytes[17])); }
        uint32_t first_id() const { return word_at(mad, cm_data_at); }
        uint32_t second_id() const { return word_at(mad, cm_data_at + 4); }
    };

    void take()
    {
        backend->handle_events();
        for (const Completion& completion : std::exchange(end.completions, {})) {
            EXPECT_EQ(completion.wc.status, IBV_WC_SUCCESS);
            if (completion.wc.opcode != IBV_WC_RECV) {
                continue;
            }
            Received& taken = received.emplace_back();
            taken.wc = completion.wc;
            std::byte* at = end.at(receive_buffer + completion.wc.wr_id * buffer_size);
            std::copy_n(at, grh_size, taken.grh.begin());
            std::copy_n(at + grh_size, verbs::mad_size, taken.mad.bytes.begin());
            post_receive(completion.wc.wr_id);
        }
    }
    bool has_told(std::string_view what) const
    {
        return std::ranges::any_of(
            log, [&](const std::string& line) { return line.find(what) != std::string::npos; });
    }
    size_t count(CmKind kind) const
    {
        return static_cast<size_t>(std::ranges::count(received, kind, &Received::kind));
    }
    uint8_t host_index() const
    {
        return static_cast<uint8_t>(port->find_gid(end.gid, 2).value_or(255));
    }

    BackendEnd end{small_limits()};
    std::shared_ptr<HostPort> port;
    std::vector<std::string> log;
    std::unique_ptr<VerbsBackend> backend;
    std::vector<Received> received;

private:
    void post_receive(uint64_t i)
    {
        end.post_recv(_gsi, recv_request(i, receive_buffer + i * buffer_size, buffer_size, _lkey));
    }

    uint32_t _gsi = 0;
    uint32_t _lkey = 0;
    uint64_t _sent = 0;
};

inline bool run_until(std::initializer_list<CmEnd*> ends, const std::function<bool()>& done)
{
    auto last = std::chrono::steady_clock::now() + patience;
    while (!done()) {
        std::vector<pollfd> fds;
        for (CmEnd* end : ends) {
            fds.push_back({end->backend->event_fd(), POLLIN, 0});
        }
        auto left =
            std::chrono::ceil<std::chrono::milliseconds>(last - std::chrono::steady_clock::now());
        if (left.count() <= 0 ||
            poll(fds.data(), fds.size(), static_cast<int>(left.count())) == 0) {
            return false;
        }
        for (CmEnd* end : ends) {
            end->take();
        }
    }
    return true;
}

} // namespace rdma::test
