// SPDX-License-Identifier: GPL-2.0-or-later
//
// The daemon's server and the devices' end of its protocol, over real sockets, with a
// stand-in for the host's ports.
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <set>

#include <gtest/gtest.h>

#include <fmt/format.h>

#include "../cm_messages.h"
#include "gid.h"
#include "listener.h"
#include "mux_port.h"
#include "mux_protocol.h"
#include "server.h"

namespace rdma::test {
namespace {

using mux::ClientId;
using mux::Server;
using verbs::MuxPort;
using verbs::OwnAddress;
namespace wire = verbs::mux;

// What there is of the host.
struct Host {
    struct Sent {
        Mad mad;
        ClientId client;
    };
    std::map<uint8_t, ibv_gid> gids; // by index
    std::deque<Mad> incoming;
    std::vector<Sent> sent;
    bool gone = false;
    bool full = false;
    std::string trouble; // why no port can be opened
    unsigned opened = 0; // ports that are open
};

class FakePort final : public mux::SharedPort {
public:
    explicit FakePort(Host& host) : _host(host)
    {
        ++_host.opened;
        if (pipe(_pipe.data()) != 0) {
            throw std::runtime_error("no pipe");
        }
        wake();
    }
    ~FakePort() override
    {
        --_host.opened;
        close(_pipe[0]);
        close(_pipe[1]);
    }
    // It polls readable all the time.
    void wake() { EXPECT_EQ(write(_pipe[1], "x", 1), 1); }
    int fd() const override { return _pipe[0]; }
    bool send(const Mad& mad, ClientId client) override
    {
        if (!_host.full) {
            _host.sent.push_back({mad, client});
        }
        return !_host.full;
    }
    bool receive(Mad& mad) override
    {
        if (_host.incoming.empty()) {
            return false;
        }
        mad = _host.incoming.front();
        _host.incoming.pop_front();
        return true;
    }
    void forget(ClientId) override {}
    bool is_gone() const override { return _host.gone; }
    bool has_gid(uint8_t index, const ibv_gid& gid) const override
    {
        auto found = _host.gids.find(index);
        return found != _host.gids.end() && same_gid(found->second, gid);
    }

private:
    Host& _host;
    std::array<int, 2> _pipe{};
};

class Mux : public testing::Test {
protected:
    Mux()
    {
        path = testing::TempDir() + fmt::format("mux-{}.sock", getpid());
        for (uint8_t i = 0; i < 8; ++i) {
            host.gids[i] = v4_gid(10, 0, 0, i);
        }
    }
    ~Mux() override
    {
        // Before the host.
        server.reset();
        std::filesystem::remove(path);
        std::filesystem::remove(path + ".lock");
    }
    void start(size_t max_per_process = Server::max_clients, std::string_view allowed = {})
    {
        std::vector<mux::Listener> listeners;
        listeners.push_back(mux::make_listener(path));
        if (!allowed.empty()) {
            listeners[0].allowed = verbs::AddressPrefixes::parse(allowed).value();
        }
        start(std::move(listeners), max_per_process);
    }
    void start(std::vector<mux::Listener> listeners, size_t max_per_process = Server::max_clients)
    {
        server = std::make_unique<Server>(
            std::move(listeners),
            [this](const std::string& device, uint8_t port) {
                if (!host.trouble.empty()) {
                    throw std::runtime_error(host.trouble);
                }
                EXPECT_EQ(port, 1);
                EXPECT_EQ(device, "rxe0");
                return std::make_unique<FakePort>(host);
            },
            [this](std::string_view line) { server_log += fmt::format("{}\n", line); },
            max_per_process);
    }
    void work()
    {
        for (int i = 0; server && i < 8; ++i) {
            server->run(0);
        }
    }

    // A device's end.
    struct Device {
        explicit Device(Mux& mux, const std::string& device = "rxe0")
            : port(
                  mux.path, device, 1,
                  [this](int, std::string_view line) { log.emplace_back(line); },
                  std::chrono::milliseconds(20))
        {
        }
        std::vector<Mad> received;
        std::vector<std::string> log;
        MuxPort port;

        void take()
        {
            Mad mad;
            while (port.receive(mad)) {
                received.push_back(mad);
            }
        }
        // Until something has happened; the time is that of its retries.
        void wait()
        {
            pollfd fd{port.fd(), POLLIN, 0};
            EXPECT_EQ(poll(&fd, 1, 20'000), 1) << "nothing has happened";
            take();
        }
    };
    void settle(std::initializer_list<Device*> devices)
    {
        for (int i = 0; i < 4; ++i) {
            work();
            for (Device* device : devices) {
                device->take();
            }
        }
    }
    OwnAddress address(uint8_t slot, uint8_t index, bool shared = false)
    {
        return {slot, index, shared, host.gids[index], v4_gid(10, 1, 0, slot)};
    }
    static Mad from(uint8_t gid_index, CmKind kind, uint32_t first, uint32_t second = 0)
    {
        Mad mad = cm_mad(kind, first, second);
        mad.gid_index = gid_index;
        mad.peer = v4_gid(10, 0, 0, 99);
        return mad;
    }

    // A client that does as it likes.
    int connect_raw() const { return connect_to(path); }
    static int connect_to(const std::string& at)
    {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        sockaddr_un to{};
        to.sun_family = AF_UNIX;
        std::ranges::copy(at, to.sun_path);
        EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0) << strerror(errno);
        return fd;
    }
    template <typename T>
    static void say(int fd, const T& message)
    {
        EXPECT_EQ(send(fd, &message, sizeof(message), MSG_NOSIGNAL), ssize_t{sizeof(message)});
    }
    bool is_hung_up(int fd)
    {
        work();
        std::array<char, 1024> bytes;
        ssize_t size;
        while ((size = recv(fd, bytes.data(), bytes.size(), 0)) > 0) {
        }
        return size == 0 || errno == ECONNRESET;
    }
    static wire::Hello hello()
    {
        wire::Hello message;
        std::string_view("rxe0").copy(message.device.data(), 5);
        message.port = 1;
        return message;
    }

    Host host;
    std::string path;
    std::string server_log;
    std::unique_ptr<Server> server;
};

TEST_F(Mux, messages_of_every_kind_go_out_and_come_in)
{
    start();
    Device a(*this);
    Device b(*this);
    a.port.set_addresses({address(0, 1)});
    b.port.set_addresses({address(0, 2)});
    settle({&a, &b});
    EXPECT_EQ(host.opened, 1u);
    for (CmKind kind : all_cm_kinds) {
        Mad mad = from(1, kind, 10, 20);
        mad.flow_label = 0x12345;
        mad.hop_limit = 7;
        mad.traffic_class = 9;
        mad.sl = 3;
        ASSERT_TRUE(a.port.send(mad));
        settle({&a, &b});
        ASSERT_EQ(host.sent.size(), 1u);
        const Mad& sent = host.sent[0].mad;
        EXPECT_EQ(sent.bytes, mad.bytes);
        EXPECT_TRUE(same_gid(sent.peer, mad.peer));
        EXPECT_EQ(sent.gid_index, 1);
        EXPECT_EQ(sent.peer_qpn, 1u);
        EXPECT_EQ(sent.flow_label, 0x12345u);
        EXPECT_EQ(sent.hop_limit, 7);
        EXPECT_EQ(sent.traffic_class, 9);
        EXPECT_EQ(sent.sl, 3);
        host.sent.clear();

        mad.gid_index = 2;
        host.incoming.push_back(mad);
        settle({&a, &b});
        ASSERT_EQ(b.received.size(), 1u);
        EXPECT_EQ(b.received[0].bytes, mad.bytes);
        EXPECT_EQ(b.received[0].gid_index, 2);
        b.received.clear();
    }
    EXPECT_TRUE(a.received.empty());
    EXPECT_TRUE(a.log.empty() && b.log.empty());
    EXPECT_EQ(server->counters().sent, all_cm_kinds.size());
    EXPECT_EQ(server->counters().delivered, all_cm_kinds.size());
}

TEST_F(Mux, addresses_come_and_go)
{
    start();
    Device a(*this);
    settle({&a});
    host.incoming = {from(1, CmKind::req, 1)};
    settle({&a});
    EXPECT_TRUE(a.received.empty());
    a.port.set_addresses({address(0, 1), address(1, 2)});
    settle({&a});
    host.incoming = {from(1, CmKind::req, 1), from(2, CmKind::req, 2)};
    settle({&a});
    EXPECT_EQ(a.received.size(), 2u);
    a.port.set_addresses({address(1, 2)});
    settle({&a});
    host.incoming = {from(1, CmKind::req, 1), from(2, CmKind::req, 2)};
    settle({&a});
    EXPECT_EQ(a.received.size(), 3u);
    ASSERT_TRUE(a.port.send(from(1, CmKind::req, 3)));
    settle({&a});
    EXPECT_TRUE(host.sent.empty());
    EXPECT_EQ(server->counters().no_client, 2u);
    EXPECT_EQ(server->counters().foreign_gid, 1u);
}

TEST_F(Mux, an_address_that_another_has_is_had_once_it_is_free)
{
    start();
    Device a(*this);
    auto b = std::make_unique<Device>(*this);
    b->port.set_addresses({address(0, 1)});
    settle({&a, b.get()});
    a.port.set_addresses({address(0, 1)});
    settle({&a, b.get()});
    ASSERT_EQ(a.log.size(), 1u);
    EXPECT_NE(a.log[0].find("does not let the guest have 10.1.0.0"), std::string::npos) << a.log[0];
    EXPECT_NE(a.log[0].find("another VM has it"), std::string::npos) << a.log[0];
    b.reset();
    settle({&a});
    a.wait(); // until it asks again
    settle({&a});
    host.incoming = {from(1, CmKind::req, 1)};
    settle({&a});
    EXPECT_EQ(a.received.size(), 1u);
    EXPECT_EQ(a.log.size(), 1u);
}

TEST_F(Mux, an_address_that_the_port_has_not_is_refused)
{
    start();
    Device a(*this);
    OwnAddress wrong = address(0, 1);
    wrong.host_gid = v4_gid(10, 9, 9, 9);
    a.port.set_addresses({wrong});
    settle({&a});
    ASSERT_EQ(a.log.size(), 1u);
    host.incoming = {from(1, CmKind::req, 1)};
    settle({&a});
    EXPECT_TRUE(a.received.empty());
}

TEST_F(Mux, a_daemon_that_is_missing_is_told_once_and_found_when_it_comes)
{
    Device a(*this);
    a.port.set_addresses({address(0, 1)});
    ASSERT_EQ(a.log.size(), 1u);
    EXPECT_NE(a.log[0].find("No such file"), std::string::npos) << a.log[0];
    EXPECT_FALSE(a.port.send(from(1, CmKind::req, 1)));
    a.wait();
    EXPECT_EQ(a.log.size(), 1u);
    start();
    a.wait();
    settle({&a});
    ASSERT_EQ(a.log.size(), 2u);
    EXPECT_NE(a.log[1].find("serves the guest's RDMA CM"), std::string::npos) << a.log[1];
    EXPECT_TRUE(a.port.send(from(1, CmKind::req, 1)));
    host.incoming = {from(1, CmKind::rep, 5, 1)};
    settle({&a});
    EXPECT_EQ(host.sent.size(), 1u);
    EXPECT_EQ(a.received.size(), 1u);
}

TEST_F(Mux, a_daemon_that_dies_is_found_again_with_all_addresses)
{
    start();
    Device a(*this);
    Device b(*this);
    a.port.set_addresses({address(0, 1), address(3, 3)});
    b.port.set_addresses({address(0, 2)});
    settle({&a, &b});
    server.reset();
    EXPECT_EQ(host.opened, 0u);
    a.take();
    EXPECT_FALSE(a.port.send(from(1, CmKind::req, 1)));
    // Found out by sending.
    EXPECT_FALSE(b.port.send(from(2, CmKind::req, 1)));
    for (Device* device : {&a, &b}) {
        ASSERT_EQ(device->log.size(), 1u);
        EXPECT_NE(device->log[0].find("it has ended"), std::string::npos);
    }
    a.port.set_addresses({address(0, 1), address(4, 4)});
    start();
    a.wait();
    b.wait();
    settle({&a, &b});
    host.incoming = {from(1, CmKind::req, 1), from(4, CmKind::req, 2), from(2, CmKind::req, 3),
                     from(3, CmKind::req, 4)};
    settle({&a, &b});
    EXPECT_EQ(a.received.size(), 2u);
    EXPECT_EQ(b.received.size(), 1u);
    EXPECT_EQ(a.log.size(), 2u);
}

TEST_F(Mux, a_port_that_cannot_be_opened_is_told_with_its_reason)
{
    host.trouble = "port 1 of RDMA device 'rxe0' has a connection manager already";
    start();
    Device a(*this);
    settle({&a});
    ASSERT_EQ(a.log.size(), 1u);
    EXPECT_NE(a.log[0].find("has a connection manager already"), std::string::npos) << a.log[0];
    a.wait();
    settle({&a});
    EXPECT_EQ(a.log.size(), 1u);
    host.trouble = "another reason";
    a.wait();
    settle({&a});
    EXPECT_EQ(a.log.size(), 2u);
    host.trouble.clear();
    a.wait();
    settle({&a});
    EXPECT_EQ(a.log.size(), 3u);
    EXPECT_EQ(server->num_clients(), 1u);
}

TEST_F(Mux, a_port_is_open_while_somebody_uses_it)
{
    start();
    {
        Device a(*this);
        settle({&a});
        EXPECT_EQ(host.opened, 1u);
    }
    work();
    EXPECT_EQ(host.opened, 0u);
    server->keep("rxe0", 1);
    EXPECT_EQ(host.opened, 1u);
    {
        Device a(*this);
        settle({&a});
        EXPECT_EQ(host.opened, 1u);
    }
    work();
    EXPECT_EQ(host.opened, 1u);
}

TEST_F(Mux, a_port_that_is_gone_is_opened_anew_for_its_devices)
{
    start();
    Device a(*this);
    a.port.set_addresses({address(0, 1)});
    settle({&a});
    host.gone = true;
    host.trouble = "there is no such device";
    settle({&a});
    EXPECT_EQ(host.opened, 0u);
    EXPECT_EQ(server->num_clients(), 0u);
    host.gone = false;
    host.trouble.clear();
    a.wait();
    settle({&a});
    host.incoming = {from(1, CmKind::req, 1)};
    settle({&a});
    EXPECT_EQ(a.received.size(), 1u);
}

TEST_F(Mux, a_client_that_does_not_read_stops_nobody)
{
    start();
    Device a(*this);
    Device slow(*this);
    a.port.set_addresses({address(0, 1)});
    slow.port.set_addresses({address(0, 2)});
    settle({&a, &slow});
    constexpr size_t count = 5000;
    for (size_t i = 0; i < count; ++i) {
        host.incoming.push_back(from(2, CmKind::req, static_cast<uint32_t>(i)));
        host.incoming.push_back(from(1, CmKind::req, static_cast<uint32_t>(i)));
    }
    while (!host.incoming.empty()) {
        work();
        a.take();
    }
    EXPECT_EQ(a.received.size(), count);
    EXPECT_GT(server->counters().client_full, 0u);
    slow.take();
    EXPECT_EQ(slow.received.size() + server->counters().client_full, count);
    // And it goes on.
    host.incoming.push_back(from(2, CmKind::req, 1));
    size_t before = slow.received.size();
    settle({&a, &slow});
    EXPECT_EQ(slow.received.size(), before + 1);
}

TEST_F(Mux, what_the_port_has_no_room_for_is_lost)
{
    start();
    Device a(*this);
    a.port.set_addresses({address(0, 1)});
    settle({&a});
    host.full = true;
    EXPECT_TRUE(a.port.send(from(1, CmKind::req, 1)));
    settle({&a});
    EXPECT_EQ(server->counters().port_full, 1u);
}

TEST_F(Mux, a_client_that_breaks_the_protocol_is_hung_up_on)
{
    start();
    Device good(*this);
    good.port.set_addresses({address(0, 1)});
    settle({&good});

    auto expect_end = [&](const char* what, bool greets, auto&& message, size_t size) {
        int fd = connect_raw();
        if (greets) {
            say(fd, hello());
        }
        EXPECT_EQ(send(fd, &message, size, MSG_NOSIGNAL), static_cast<ssize_t>(size)) << what;
        EXPECT_TRUE(is_hung_up(fd)) << what;
        close(fd);
    };
    wire::Hello bad = hello();
    bad.magic = 0;
    expect_end("no magic", false, bad, sizeof(bad));
    bad = hello();
    bad.version = 2;
    expect_end("a version", false, bad, sizeof(bad));
    bad = hello();
    bad.port = 256;
    expect_end("a port", false, bad, sizeof(bad));
    bad.port = 0;
    expect_end("no port", false, bad, sizeof(bad));
    bad = hello();
    bad.device.fill('x');
    expect_end("a name without end", false, bad, sizeof(bad));
    for (std::string_view name : {"", "../rxe0", "a/b", "rxe 0", "\xff"}) {
        bad.device.fill(0);
        name.copy(bad.device.data(), name.size());
        expect_end("a name", false, bad, sizeof(bad));
    }
    expect_end("short", false, hello(), sizeof(wire::Hello) - 1);
    std::array<std::byte, 4096> many{};
    many[0] = std::byte{static_cast<uint8_t>(wire::Type::hello)};
    expect_end("long", false, many, many.size());
    expect_end("one byte", false, many, 1);
    expect_end("an address before its hello", false, wire::SetAddress{}, sizeof(wire::SetAddress));
    expect_end("a datagram before its hello", false, wire::Datagram{}, sizeof(wire::Datagram));
    expect_end("hello twice", true, hello(), sizeof(wire::Hello));
    expect_end("what the daemon says", true, wire::Welcome{}, sizeof(wire::Welcome));
    expect_end("a short datagram", true, wire::Datagram{}, sizeof(wire::Datagram) - 1);
    many[0] = std::byte{static_cast<uint8_t>(wire::Type::datagram)};
    expect_end("a long datagram", true, many, sizeof(wire::Datagram) + 1);
    many[0] = std::byte{99};
    expect_end("no type", true, many, 16);

    EXPECT_EQ(server->num_clients(), 1u);
    host.incoming = {from(1, CmKind::req, 1)};
    settle({&good});
    EXPECT_EQ(good.received.size(), 1u);
}

TEST_F(Mux, a_client_that_asks_for_the_wrong_version_is_told_why)
{
    start();
    int fd = connect_raw();
    wire::Hello message = hello();
    message.version = 7;
    say(fd, message);
    work();
    wire::Refusal refusal;
    ASSERT_EQ(recv(fd, &refusal, sizeof(refusal), 0), ssize_t{sizeof(refusal)});
    EXPECT_EQ(refusal.type, wire::Type::refusal);
    EXPECT_EQ(refusal.version, wire::version);
    EXPECT_NE(std::string(refusal.reason.data()).find("version 1"), std::string::npos);
    close(fd);
}

TEST_F(Mux, clients_that_say_nothing_keep_nobody_out)
{
    start();
    std::vector<int> silent;
    for (size_t i = 0; i < Server::max_clients + 20; ++i) {
        silent.push_back(connect_raw());
        work();
    }
    EXPECT_EQ(server->num_clients(), Server::max_clients);
    Device a(*this);
    a.port.set_addresses({address(0, 1)});
    settle({&a});
    host.incoming = {from(1, CmKind::req, 1)};
    settle({&a});
    EXPECT_EQ(a.received.size(), 1u);
    for (int fd : silent) {
        close(fd);
    }
    settle({&a});
    EXPECT_EQ(server->num_clients(), 1u);
}

TEST_F(Mux, there_are_as_many_clients_as_the_limit_says)
{
    start();
    std::vector<std::unique_ptr<Device>> devices;
    for (size_t i = 0; i < Server::max_clients; ++i) {
        devices.push_back(std::make_unique<Device>(*this));
        work();
        devices.back()->take();
    }
    Device late(*this);
    settle({&late});
    ASSERT_EQ(late.log.size(), 1u);
    EXPECT_NE(late.log[0].find("serves 128 devices already"), std::string::npos) << late.log[0];
    devices.pop_back();
    work();
    late.wait();
    settle({&late});
    EXPECT_EQ(late.log.size(), 2u);
}

TEST_F(Mux, a_daemon_that_talks_nonsense_is_left)
{
    mux::Listener listener = mux::make_listener(path);
    Device a(*this);
    auto answer = [&](const void* bytes, size_t size) {
        int fd = accept(listener.fd, nullptr, nullptr);
        ASSERT_GE(fd, 0);
        ASSERT_EQ(send(fd, bytes, size, 0), static_cast<ssize_t>(size));
        a.wait();
        EXPECT_FALSE(a.port.send(from(1, CmKind::req, 1)));
        pollfd poll_fd{fd, POLLIN | POLLHUP, 0};
        EXPECT_EQ(poll(&poll_fd, 1, 0), 1);
        EXPECT_TRUE(poll_fd.revents & POLLHUP);
        close(fd);
        a.wait(); // until it connects again
    };
    wire::Welcome welcome;
    welcome.version = 9;
    answer(&welcome, sizeof(welcome));
    answer(&welcome, 1);
    std::array<char, 3000> bytes{};
    answer(bytes.data(), bytes.size());
    wire::Refusal refusal;
    refusal.reason.fill('x');
    answer(&refusal, sizeof(refusal));
    EXPECT_EQ(a.log.size(), 2u);
}

TEST_F(Mux, two_daemons_do_not_listen_at_one_place)
{
    start();
    EXPECT_THROW(mux::make_listener(path), std::runtime_error);
    server.reset();
    // What one that died has left is replaced.
    int left = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    std::ranges::copy(path, at.sun_path);
    ASSERT_EQ(bind(left, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
    close(left);
    EXPECT_GE(mux::make_listener(path).fd, 0);
}

TEST_F(Mux, a_file_in_the_place_of_the_socket_stays)
{
    std::ofstream(path) << "of somebody's";
    EXPECT_THROW(mux::make_listener(path), std::runtime_error);
    EXPECT_EQ(std::filesystem::file_size(path), 13u);
}

TEST_F(Mux, a_lock_keeps_a_daemon_away_that_does_not_listen_yet)
{
    mux::Listener first = mux::make_listener(path);
    // As between the look for another daemon and the socket's being there.
    std::filesystem::remove(path);
    EXPECT_THROW(mux::make_listener(path), std::runtime_error);
}

// It has the lock, and its bind() fails.
TEST_F(Mux, a_daemon_that_did_not_get_the_path_leaves_the_socket_of_who_did)
{
    int other = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    std::ranges::copy(path, at.sun_path);
    ASSERT_EQ(bind(other, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
    {
        mux::Listener late;
        late.path = path;
        late.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        late.lock = dup(other);
    }
    EXPECT_TRUE(std::filesystem::exists(path));
    close(other);
}

TEST_F(Mux, a_client_that_has_gone_before_it_is_answered_leaves_no_port_open)
{
    start();
    int fd = connect_raw();
    say(fd, hello());
    close(fd);
    work();
    EXPECT_EQ(server->num_clients(), 0u);
    EXPECT_EQ(server->num_ports(), 0u);
    EXPECT_EQ(host.opened, 0u);
}

TEST_F(Mux, a_process_has_no_more_than_its_share_of_devices)
{
    start(2);
    Device a(*this);
    Device b(*this);
    settle({&a, &b});
    Device c(*this);
    settle({&a, &b, &c});
    ASSERT_EQ(c.log.size(), 1u);
    EXPECT_NE(c.log[0].find(fmt::format("serves 2 devices of process {} already", getpid())),
              std::string::npos)
        << c.log[0];
    EXPECT_EQ(server->num_clients(), 2u);
}

// A daemon in a PID namespace of its own cannot tell the processes outside from each other.
TEST_F(Mux, processes_that_have_no_number_here_share_what_one_has_at_each_socket_alone)
{
    const std::string other = path + ".2";
    std::vector<mux::Listener> listeners;
    listeners.push_back(mux::make_listener(path));
    listeners.push_back(mux::make_listener(other));
    std::array<int, 2> ends{};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    constexpr int not_allowed = 77;
    const pid_t outside = fork();
    if (outside == 0) {
        close(ends[0]);
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) {
            _exit(not_allowed);
        }
        // The first process of the new namespace serves until the other end is closed.
        if (const pid_t inside = fork(); inside != 0) {
            close(ends[1]);
            waitpid(inside, nullptr, 0);
            _exit(0);
        }
        start(std::move(listeners), 2);
        send(ends[1], "x", 1, MSG_NOSIGNAL);
        pollfd fds[] = {{server->fd(), POLLIN, 0}, {ends[1], POLLIN, 0}};
        while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
            server->run(0);
        }
        _exit(0);
    }
    close(ends[1]);
    char started;
    const bool is_served = recv(ends[0], &started, 1, 0) == 1;
    // All clients are one process, which the daemon does not know.
    auto is_taken = [](const std::string& at) {
        int fd = connect_to(at);
        say(fd, hello());
        pollfd answer{fd, POLLIN, 0};
        EXPECT_EQ(poll(&answer, 1, 20'000), 1);
        std::array<char, 1024> bytes;
        return recv(fd, bytes.data(), bytes.size(), 0) == ssize_t{sizeof(wire::Welcome)};
    };
    std::vector<bool> taken;
    for (const auto& at : {path, path, path, other}) {
        taken.push_back(is_served && is_taken(at));
    }
    close(ends[0]);
    int status;
    ASSERT_EQ(waitpid(outside, &status, 0), outside);
    listeners.clear();
    std::filesystem::remove(other + ".lock");
    if (WIFEXITED(status) && WEXITSTATUS(status) == not_allowed) {
        GTEST_SKIP() << "this user may not make PID namespaces";
    }
    EXPECT_EQ(taken, (std::vector{true, true, false, true}));
}

TEST_F(Mux, a_socket_allows_the_addresses_that_it_has_been_given)
{
    start(Server::max_clients, "10.0.0.2+10.1.0.0/24");
    Device a(*this);
    a.port.set_addresses({address(0, 1), address(1, 2)});
    settle({&a});
    ASSERT_EQ(a.log.size(), 1u);
    EXPECT_NE(a.log[0].find("its socket does not allow it"), std::string::npos) << a.log[0];
    a.port.send(from(1, CmKind::req, 1));
    a.port.send(from(2, CmKind::req, 2));
    settle({&a});
    ASSERT_EQ(host.sent.size(), 1u);
    EXPECT_EQ(host.sent[0].mad.gid_index, 2);
    // Of a GID that devices share, the guest's own address counts.
    Device b(*this);
    b.port.set_addresses({address(0, 3, true)});
    settle({&a, &b});
    EXPECT_TRUE(b.log.empty());
}

TEST_F(Mux, a_socket_without_a_list_is_told)
{
    start();
    EXPECT_NE(server_log.find(fmt::format("the socket '{}' has no list of addresses", path)),
              std::string::npos)
        << server_log;
    server.reset();
    server_log.clear();
    start(Server::max_clients, "10.0.0.2");
    EXPECT_EQ(server_log, "");
}

// To share it is no way to have it.
TEST_F(Mux, an_address_that_is_allowed_at_another_socket_is_not_shared)
{
    std::string others = path + ".2";
    std::vector<mux::Listener> listeners;
    listeners.push_back(mux::make_listener(path));
    listeners.back().allowed = verbs::AddressPrefixes::parse("10.0.0.2+10.1.0.0/24").value();
    listeners.push_back(mux::make_listener(others));
    listeners.back().allowed = verbs::AddressPrefixes::parse("10.0.0.3").value();
    start(std::move(listeners));
    Device a(*this);
    a.port.set_addresses({address(0, 2, true), address(1, 3, true), address(2, 4, true)});
    settle({&a});
    ASSERT_EQ(a.log.size(), 1u);
    EXPECT_NE(a.log[0].find("let the guest have 10.1.0.1 for RDMA CM: its socket does not allow"),
              std::string::npos)
        << a.log[0];
    // What comes for it is nobody's, and what would come from it goes nowhere.
    host.incoming = {from(3, CmKind::req, 1)};
    a.port.send(from(3, CmKind::req, 2));
    settle({&a});
    EXPECT_TRUE(a.received.empty());
    EXPECT_TRUE(host.sent.empty());
    std::filesystem::remove(others + ".lock");
}

TEST_F(Mux, a_daemon_without_descriptors_takes_clients_again_once_it_has_some)
{
    start();
    int fd = connect_raw();
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    int lowest = dup(fd); // of those that are free
    close(lowest);
    rlimit none{static_cast<rlim_t>(lowest), before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    unsigned turns = 0;
    for (pollfd ready{server->fd(), POLLIN, 0}; turns < 100 && poll(&ready, 1, 0) > 0; ++turns) {
        server->run(0);
    }
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_LT(turns, 100u) << "there always is something to do";
    close(fd);
    Device a(*this);
    settle({&a});
    EXPECT_EQ(host.opened, 1u);
}

} // namespace
} // namespace rdma::test
