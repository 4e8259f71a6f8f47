// SPDX-License-Identifier: GPL-2.0-or-later
//
// rdmacm-mux: shares the messages of connection management of a host's RDMA ports
// among the devices of VMs. docs/verbs-backend.md says how to use it.
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <stdexcept>

#include <fmt/format.h>

#include "listener.h"
#include "log_limit.h"
#include "server.h"
#include "umad_shared_port.h"

using namespace rdma::mux;

namespace {

using PortName = std::pair<std::string, uint8_t>;

// "rxe0" or "rxe0:1"
PortName parse_port(const std::string& text)
{
    size_t colon = text.find(':');
    PortName name(text.substr(0, colon), 1);
    if (colon != std::string::npos) {
        const char* end = text.data() + text.size();
        auto [last, error] = std::from_chars(text.data() + colon + 1, end, name.second);
        if (error != std::errc() || last != end || name.second == 0) {
            throw std::runtime_error(fmt::format("not a port of a device: '{}'", text));
        }
    }
    return name;
}

// "PATH" or "PATH=ADDRESS[/BITS][+...]"
struct SocketOption {
    std::string path;
    rdma::verbs::AddressPrefixes allowed;
};

SocketOption parse_socket(const std::string& text)
{
    size_t equals = text.find('=');
    SocketOption option{text.substr(0, equals), {}};
    if (equals != std::string::npos) {
        auto allowed = rdma::verbs::AddressPrefixes::parse(text.substr(equals + 1));
        if (!allowed || allowed->empty()) {
            throw std::runtime_error(fmt::format("--socket '{}': {}", text,
                                                 allowed ? "no address" : allowed.error()));
        }
        option.allowed = std::move(*allowed);
    }
    return option;
}

// Those that systemd has made, of which each has its option; or those of the options.
std::vector<Listener> make_listeners(std::vector<SocketOption>& options)
{
    std::vector<Listener> listeners = inherited_listeners();
    bool inherited = !listeners.empty();
    if (options.empty() && !inherited) {
        options.push_back({rdma::verbs::mux::default_socket, {}});
    }
    for (SocketOption& option : options) {
        auto listener = std::ranges::find(listeners, option.path, &Listener::path);
        if (listener == listeners.end()) {
            if (inherited) {
                throw std::runtime_error(fmt::format("systemd passes no socket '{}'", option.path));
            }
            listeners.push_back(make_listener(option.path));
            listener = listeners.end() - 1;
        }
        listener->allowed = std::move(option.allowed);
    }
    return listeners;
}

int signal_descriptor()
{
    sigset_t set;
    sigemptyset(&set);
    for (int signal : {SIGINT, SIGTERM, SIGUSR1}) {
        sigaddset(&set, signal);
    }
    sigprocmask(SIG_BLOCK, &set, nullptr);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

void print_counters(const Server& server)
{
    const Counters& c = server.counters();
    fmt::print(stderr,
               "rdmacm-mux: {} devices at {} ports; messages sent {}, delivered {}; dropped of "
               "devices: {} malformed, {} from another's GID, {} with another's id, {} too many; "
               "dropped of the network: {} malformed, {} for no device, {} for no one device, {} "
               "not read; {} devices refused\n",
               server.num_clients(), server.num_ports(), c.sent, c.delivered, c.bad_message,
               c.foreign_gid, c.foreign_id, c.port_full, c.unknown, c.no_client, c.ambiguous,
               c.client_full, c.bad_clients);
}

// Until a signal ends it.
void serve(Server& server, int signals)
{
    int both = epoll_create1(EPOLL_CLOEXEC);
    for (int fd : {server.fd(), signals}) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = fd;
        epoll_ctl(both, EPOLL_CTL_ADD, fd, &event);
    }
    for (;;) {
        epoll_event event{};
        epoll_wait(both, &event, 1, -1);
        server.run(0);
        signalfd_siginfo info;
        while (read(signals, &info, sizeof(info)) == sizeof(info)) {
            print_counters(server);
            if (info.ssi_signo != SIGUSR1) {
                close(both);
                return;
            }
        }
    }
}

} // namespace

int main(int argc, char** argv)
{
    std::vector<std::string> sockets;
    std::vector<std::string> devices;
    size_t per_process = Server::default_max_per_process;
    CLI::App app("Shares the RDMA CM messages of the host's RDMA ports among the devices of VMs "
                 "(-device pvrdma,backend=verbs). Signal USR1: prints what it has counted.");
    app.add_option("--socket", sockets,
                   "PATH[=ADDRESS[/BITS][+...]] where it listens, and the addresses that its "
                   "clients may have. Without addresses it protects nobody: each client may have "
                   "every address of the port, also another VM's. Of a socket that systemd "
                   "passes: what is allowed there. Without the option: " +
                       std::string(rdma::verbs::mux::default_socket) + ", without addresses");
    app.add_option("--devices-per-process", per_process, "devices that one QEMU may have")
        ->check(CLI::Range(size_t{1}, Server::max_clients))
        ->capture_default_str();
    app.add_option("--device", devices,
                   "DEVICE[:PORT] of the host, held from the start; only those named are served "
                   "(without: all, each while a VM uses it)");
    CLI11_PARSE(app, argc, argv);
    try {
        std::vector<PortName> served;
        std::ranges::transform(devices, std::back_inserter(served), parse_port);
        std::vector<SocketOption> options;
        std::ranges::transform(sockets, std::back_inserter(options), parse_socket);
        int signals = signal_descriptor();
        Server server(
            make_listeners(options),
            [&](const std::string& device, uint8_t port) {
                if (!served.empty() &&
                    std::ranges::find(served, PortName(device, port)) == served.end()) {
                    throw std::runtime_error(
                        fmt::format("it does not serve port {} of RDMA device '{}'", port, device));
                }
                return std::make_unique<UmadSharedPort>(device, port);
            },
            LogLimit(), per_process);
        for (const auto& [device, port] : served) {
            server.keep(device, port);
        }
        serve(server, signals);
    } catch (const std::exception& error) {
        fmt::print(stderr, "rdmacm-mux: {}\n", error.what());
        return 1;
    }
}
