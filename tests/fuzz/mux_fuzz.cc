// SPDX-License-Identifier: GPL-2.0-or-later
//
// What QEMUs and the network may send to rdmacm-mux: clients that mostly keep to the
// protocol and some that do not, messages of connection management of every kind and
// no kind, a port that is full, fails or goes. No message may reach a client that has
// not the GID that it is for.
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <set>
#include <stdexcept>

#include "../cm_messages.h"
#include "gid.h"
#include "server.h"

namespace rdma::fuzz {
namespace {

namespace wire = verbs::mux;
using test::CmKind;
using verbs::Mad;

constexpr uint8_t num_gids = 6; // of the host's port

struct Host {
    std::deque<Mad> incoming;
    bool full = false;
    bool gone = false;
    bool closed = false; // cannot be opened
};

class FuzzPort final : public mux::SharedPort {
public:
    explicit FuzzPort(Host& host) : _host(host), _fd(eventfd(1, EFD_NONBLOCK)) {}
    ~FuzzPort() override { close(_fd); }
    int fd() const override { return _fd; }
    bool send(const Mad& mad, mux::ClientId) override
    {
        if (!verbs::parse_cm_message(mad.bytes) || mad.gid_index >= num_gids) {
            abort(); // nobody may send that
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
    void forget(mux::ClientId) override {}
    bool is_gone() const override { return _host.gone; }
    bool has_gid(uint8_t index, const ibv_gid& gid) const override
    {
        return index < num_gids && same_gid(gid, test::v4_gid(10, 0, 0, index));
    }

private:
    Host& _host;
    int _fd;
};

class MuxFuzz {
public:
    explicit MuxFuzz(FuzzedDataProvider& data) : _data(data)
    {
        // An abstract address, of this process alone.
        int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
        _address.sun_family = AF_UNIX;
        std::string name = "mux-fuzz-" + std::to_string(getpid());
        std::ranges::copy(name, _address.sun_path + 1);
        if (bind(listener, reinterpret_cast<sockaddr*>(&_address), sizeof(_address)) != 0 ||
            listen(listener, 64) != 0) {
            abort(); // this test is wrong
        }
        std::vector<mux::Listener> listeners(1);
        listeners[0].fd = listener;
        if (_data.ConsumeBool()) {
            listeners[0].allowed = verbs::AddressPrefixes::parse("10.0.0.0/30").value();
        }
        _server.emplace(
            std::move(listeners),
            [this](const std::string&, uint8_t) {
                if (_host.closed) {
                    throw std::runtime_error("closed");
                }
                return std::make_unique<FuzzPort>(_host);
            },
            [](std::string_view) {});
    }
    ~MuxFuzz()
    {
        for (Client& client : _clients) {
            close(client.fd);
        }
    }

    void run()
    {
        while (_data.remaining_bytes() > 0) {
            switch (_data.ConsumeIntegralInRange(0, 11)) {
            case 0:
                connect_client();
                break;
            case 1:
                if (Client* client = pick()) {
                    close(client->fd);
                    _clients.erase(_clients.begin() + (client - _clients.data()));
                }
                break;
            case 2:
                if (Client* client = pick()) {
                    auto bytes = _data.ConsumeBytes<uint8_t>(
                        _data.ConsumeIntegralInRange<size_t>(0, wire::max_message + 8));
                    note_addresses(*client, bytes);
                    send(client->fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
                }
                break;
            case 3:
            case 4:
                set_address();
                break;
            case 5:
                if (Client* client = pick()) {
                    wire::ClearAddress message;
                    message.slot = slot();
                    say(*client, message);
                }
                break;
            case 6:
            case 7:
                if (Client* client = pick()) {
                    say(*client, wire::to_datagram(mad()));
                }
                break;
            case 8:
            case 9:
                _host.incoming.push_back(mad());
                break;
            case 10:
                _host.full = _data.ConsumeBool();
                _host.closed = _data.ConsumeIntegralInRange(0, 7) == 7;
                _host.gone = _data.ConsumeIntegralInRange(0, 15) == 15;
                break;
            default:
                settle();
            }
        }
        settle();
        _host.gone = false;
    }

private:
    struct Client {
        int fd;
        std::set<uint8_t> gids; // indices that it has asked for at some time
    };

    void connect_client()
    {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
        if (_clients.size() >= 12 ||
            connect(fd, reinterpret_cast<sockaddr*>(&_address), sizeof(_address)) != 0) {
            close(fd);
            return;
        }
        Client& client = _clients.emplace_back();
        client.fd = fd;
        wire::Hello hello;
        std::string_view(_data.ConsumeBool() ? "rxe0" : "rxe1").copy(hello.device.data(), 4);
        hello.port = 1;
        if (_data.ConsumeIntegralInRange(0, 15) == 15) {
            hello.port = _data.ConsumeIntegral<uint32_t>();
            hello.version = _data.ConsumeIntegral<uint16_t>();
        }
        say(client, hello);
        settle();
    }
    Client* pick()
    {
        return _clients.empty()
                   ? nullptr
                   : &_clients[_data.ConsumeIntegralInRange<size_t>(0, _clients.size() - 1)];
    }
    template <typename T>
    bool say(Client& client, const T& message)
    {
        return send(client.fd, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
    }
    // Any bytes may be a message that is right.
    static void note_addresses(Client& client, std::span<const uint8_t> bytes)
    {
        wire::SetAddress message;
        if (bytes.size() == sizeof(message)) {
            std::memcpy(&message, bytes.data(), sizeof(message));
            client.gids.insert(message.gid_index);
        }
    }
    uint8_t slot() { return _data.ConsumeIntegralInRange<uint8_t>(0, 3); }
    uint8_t gid_index() { return _data.ConsumeIntegralInRange<uint8_t>(0, num_gids); }

    void set_address()
    {
        Client* client = pick();
        if (!client) {
            return;
        }
        wire::SetAddress message;
        message.slot = slot();
        message.gid_index = gid_index();
        message.shared = _data.ConsumeIntegralInRange<uint8_t>(0, 3);
        std::ranges::copy(test::v4_gid(10, 0, 0, message.gid_index).raw, message.host_gid.begin());
        std::ranges::copy(test::v4_gid(10, 1, 0, slot()).raw, message.guest_gid.begin());
        say(*client, message);
        client->gids.insert(message.gid_index);
    }

    Mad mad()
    {
        uint32_t first = _data.ConsumeIntegralInRange(0u, 7u);
        uint32_t second = _data.ConsumeIntegralInRange(0u, 7u);
        Mad mad = test::cm_mad(_data.PickValueInArray(test::all_cm_kinds), first, second);
        if (_data.ConsumeBool()) {
            test::ask_for(mad, test::tcp_service, test::v4_gid(10, 1, 0, slot()));
        }
        if (_data.ConsumeIntegralInRange(0, 15) == 15) {
            auto bytes = _data.ConsumeBytes<uint8_t>(40);
            std::ranges::copy(std::as_bytes(std::span(bytes)), mad.bytes.begin());
        }
        mad.gid_index = gid_index();
        mad.peer = test::v4_gid(10, 0, 9, _data.ConsumeIntegralInRange<uint8_t>(0, 2));
        mad.peer_qpn =
            _data.ConsumeIntegralInRange(0, 15) == 15 ? _data.ConsumeIntegral<uint32_t>() : 1;
        return mad;
    }

    // What was said is heard.
    void settle()
    {
        for (int i = 0; i < 4; ++i) {
            _server->run(0);
            for (Client& client : _clients) {
                hear(client);
            }
        }
    }
    void hear(Client& client)
    {
        std::array<std::byte, wire::max_message + 1> packet;
        ssize_t size;
        while ((size = recv(client.fd, packet.data(), packet.size(), MSG_DONTWAIT)) > 0) {
            wire::Datagram datagram;
            if (size != sizeof(datagram)) {
                continue;
            }
            std::memcpy(&datagram, packet.data(), sizeof(datagram));
            if (datagram.type != wire::Type::datagram ||
                !client.gids.contains(datagram.gid_index)) {
                abort(); // it is another's
            }
        }
    }

    FuzzedDataProvider& _data;
    sockaddr_un _address{};
    Host _host;
    std::optional<mux::Server> _server;
    std::vector<Client> _clients;
};

} // namespace
} // namespace rdma::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size)
{
    FuzzedDataProvider data(bytes, size);
    rdma::fuzz::MuxFuzz(data).run();
    return 0;
}
