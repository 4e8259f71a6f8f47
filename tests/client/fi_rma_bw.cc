// SPDX-License-Identifier: GPL-2.0-or-later
//
// fi-rma-bw: the bandwidth of fi_write and fi_read between two endpoints of libfabric's verbs
// provider, for each size, as fabtests' fi_rma_bw measures it; all data is checked.
// Exit status: 0 all is well, 1 an error or wrong data.
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <map>
#include <memory>

#include "pattern.h"

using namespace verify;

namespace {

constexpr size_t largest = 1 << 20;     // bytes of a transfer
constexpr size_t guard = 9;             // bytes behind each transfer, which nothing may write to
constexpr int connect_timeout = 60'000; // milliseconds

struct Options {
    std::string device;
    fi_ep_type type = FI_EP_MSG;
    std::string server; // empty: is the server
    uint16_t port = 18602;
    size_t window = 16; // transfers outstanding
    unsigned rounds = 2;
    uint64_t seed = 1;
    bool damage = false; // of what this side fills
};

// Results of libfabric: negative error numbers.
template <typename Result>
Result expect_done(Result result, const char* what)
{
    expect(result >= 0, "{}: {}", what, fi_strerror(static_cast<int>(-result)));
    return result;
}

struct Close {
    void operator()(auto* object) const { fi_close(&object->fid); }
};
template <typename T>
using Owner = std::unique_ptr<T, Close>;
struct FreeInfo {
    void operator()(fi_info* info) const { fi_freeinfo(info); }
};
using Info = std::unique_ptr<fi_info, FreeInfo>;

// open(T**) makes an object of libfabric's.
template <typename T>
Owner<T> make(const char* what, auto&& open)
{
    T* object = nullptr;
    expect_done(open(&object), what);
    return Owner<T>(object);
}

// An endpoint that is connected, or connects itself (FI_EP_RDM), and its registered memory.
class Endpoint {
public:
    Endpoint(const Options& options, size_t memory)
        : _memory(memory), _contexts(options.window), _is_server(options.server.empty())
    {
        find(options);
        _fabric = make<fid_fabric>(
            "fi_fabric", [&](auto out) { return fi_fabric(_info->fabric_attr, out, nullptr); });
        if (_info->ep_attr->type == FI_EP_MSG) {
            fi_eq_attr attr{.wait_obj = FI_WAIT_UNSPEC};
            _events = make<fid_eq>("fi_eq_open", [&](auto out) {
                return fi_eq_open(_fabric.get(), &attr, out, nullptr);
            });
        } else {
            open();
        }
        if (_events && _is_server) {
            _listener = make<fid_pep>("fi_passive_ep", [&](auto out) {
                return fi_passive_ep(_fabric.get(), _info.get(), out, nullptr);
            });
            expect_done(fi_pep_bind(_listener.get(), &_events->fid, 0), "fi_pep_bind");
            expect_done(fi_listen(_listener.get()), "fi_listen");
        }
    }

    // To be called at both ends, by the client when the server has been made.
    void connect()
    {
        if (!_events) {
            return;
        }
        if (_is_server) {
            _info.reset(wait_for(FI_CONNREQ));
        }
        open();
        expect_done(_is_server ? fi_accept(_endpoint.get(), nullptr, 0)
                               : fi_connect(_endpoint.get(), _info->dest_addr, nullptr, 0),
                    "to connect");
        wait_for(FI_CONNECTED);
    }

    std::span<uint8_t> memory() { return _memory; }
    uint64_t key() const { return fi_mr_key(_region.get()); }
    const char* provider() const { return _info->fabric_attr->prov_name; }
    const char* domain() const { return _info->domain_attr->name; }

    // Starts a transfer between the piece, of memory(), and the peer's address.
    void post(bool write, size_t slot, std::span<uint8_t> piece, uint64_t address, uint64_t key)
    {
        auto start = [&] {
            void* context = &_contexts[slot];
            return write ? fi_write(_endpoint.get(), piece.data(), piece.size(),
                                    fi_mr_desc(_region.get()), _peer, address, key, context)
                         : fi_read(_endpoint.get(), piece.data(), piece.size(),
                                   fi_mr_desc(_region.get()), _peer, address, key, context);
        };
        ssize_t result;
        while ((result = start()) == -FI_EAGAIN) {
            progress();
        }
        expect_done(result, write ? "fi_write" : "fi_read");
    }

    void wait_completed(size_t transfers)
    {
        while (_completed < transfers) {
            progress();
        }
        _completed -= transfers;
    }

    // libfabric's, and what it does within calls alone: a peer's connections, say.
    void progress()
    {
        fi_cq_entry entries[16];
        ssize_t count = fi_cq_read(_completions.get(), entries, std::size(entries));
        if (count == -FI_EAVAIL) {
            fi_cq_err_entry error{};
            expect_done(fi_cq_readerr(_completions.get(), &error, 0), "fi_cq_readerr");
            throw Failure(fmt::format("a transfer failed: {}", fi_strerror(error.err)));
        }
        if (count != -FI_EAGAIN) {
            _completed += static_cast<size_t>(expect_done(count, "fi_cq_read"));
        }
    }

private:
    void find(const Options& options)
    {
        Info hints(fi_allocinfo());
        hints->caps = FI_MSG | FI_RMA;
        hints->mode = FI_CONTEXT | FI_CONTEXT2;
        hints->addr_format = FI_SOCKADDR_IN;
        hints->ep_attr->type = options.type;
        hints->domain_attr->mr_mode =
            FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
        hints->domain_attr->name = strdup(options.device.c_str());
        hints->fabric_attr->prov_name =
            strdup(options.type == FI_EP_MSG ? "verbs" : "verbs;ofi_rxm");
        fi_info* found = nullptr;
        expect_done(fi_getinfo(FI_VERSION(1, 17), _is_server ? nullptr : options.server.c_str(),
                               std::to_string(options.port).c_str(), _is_server ? FI_SOURCE : 0,
                               hints.get(), &found),
                    "fi_getinfo");
        _info.reset(found);
    }

    void open()
    {
        _domain = make<fid_domain>("fi_domain", [&](auto out) {
            return fi_domain(_fabric.get(), _info.get(), out, nullptr);
        });
        fi_cq_attr cq_attr{.size = _contexts.size(), .format = FI_CQ_FORMAT_CONTEXT};
        _completions = make<fid_cq>("fi_cq_open", [&](auto out) {
            return fi_cq_open(_domain.get(), &cq_attr, out, nullptr);
        });
        _region = make<fid_mr>("fi_mr_reg", [&](auto out) {
            return fi_mr_reg(_domain.get(), _memory.data(), _memory.size(),
                             FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE, 0, 0, 0, out,
                             nullptr);
        });
        _endpoint = make<fid_ep>("fi_endpoint", [&](auto out) {
            return fi_endpoint(_domain.get(), _info.get(), out, nullptr);
        });
        expect_done(fi_ep_bind(_endpoint.get(), &_completions->fid, FI_TRANSMIT | FI_RECV),
                    "to bind the CQ");
        if (_events) {
            expect_done(fi_ep_bind(_endpoint.get(), &_events->fid, 0), "to bind the EQ");
        } else {
            fi_av_attr av_attr{.type = FI_AV_TABLE};
            _addresses = make<fid_av>("fi_av_open", [&](auto out) {
                return fi_av_open(_domain.get(), &av_attr, out, nullptr);
            });
            expect_done(fi_ep_bind(_endpoint.get(), &_addresses->fid, 0), "to bind the AV");
        }
        expect_done(fi_enable(_endpoint.get()), "fi_enable");
        if (_addresses && !_is_server) {
            expect(fi_av_insert(_addresses.get(), _info->dest_addr, 1, &_peer, 0, nullptr) == 1,
                   "fi_av_insert");
        }
    }

    // Returns the request's info, with FI_CONNREQ.
    fi_info* wait_for(uint32_t expected)
    {
        uint32_t event = 0;
        fi_eq_cm_entry entry{};
        ssize_t size =
            fi_eq_sread(_events.get(), &event, &entry, sizeof(entry), connect_timeout, 0);
        if (size == -FI_EAVAIL) {
            fi_eq_err_entry error{};
            fi_eq_readerr(_events.get(), &error, 0);
            throw Failure(fmt::format("not connected: {}", fi_strerror(error.err)));
        }
        expect_done(size, "fi_eq_sread");
        expect(event == expected, "event {} instead of {}", event, expected);
        return entry.info;
    }

    std::vector<uint8_t> _memory;
    std::vector<fi_context2> _contexts;
    bool _is_server;
    size_t _completed = 0;
    fi_addr_t _peer = FI_ADDR_UNSPEC;
    // In the order in which they need each other.
    Info _info;
    Owner<fid_fabric> _fabric;
    Owner<fid_eq> _events;
    Owner<fid_pep> _listener;
    Owner<fid_domain> _domain;
    Owner<fid_av> _addresses;
    Owner<fid_cq> _completions;
    Owner<fid_mr> _region;
    Owner<fid_ep> _endpoint;
};

enum class Operation : uint32_t { write, read, end };

// What the client asks the server for: window transfers of this size are to come.
struct Round {
    Operation operation = Operation::end;
    uint64_t size = 0; // bytes
    uint64_t seed = 0;
};

struct Remote {
    uint64_t address;
    uint64_t key;
};

// A window of transfers in memory, one behind the other at odd addresses, with guards between them.
class Window {
public:
    Window(std::span<uint8_t> memory, const Options& options)
        : _memory(memory), _transfers(options.window), _damage(options.damage)
    {
    }

    static size_t offset(size_t slot, size_t size) { return slot * (size + guard); }
    std::span<uint8_t> piece(size_t slot, size_t size)
    {
        return _memory.subspan(offset(slot, size), size);
    }

    void fill(const Round& round)
    {
        clear(round);
        for (size_t slot = 0; slot < _transfers; ++slot) {
            verify::fill(piece(slot, round.size), round.seed + slot);
        }
        if (_damage) {
            piece(_transfers - 1, round.size).back() ^= 1;
        }
    }
    void clear(const Round& round) { poison(_memory.first(offset(_transfers, round.size))); }
    void check(const Round& round)
    {
        auto what = fmt::format("{} of {} bytes",
                                round.operation == Operation::write ? "write" : "read", round.size);
        for (size_t slot = 0; slot < _transfers; ++slot) {
            verify::check(piece(slot, round.size), round.seed + slot, 0, what.c_str());
            check_untouched(_memory.subspan(offset(slot, round.size) + round.size, guard),
                            what.c_str());
        }
    }

private:
    std::span<uint8_t> _memory;
    size_t _transfers;
    bool _damage;
};

void serve(Endpoint& endpoint, Window& window, Control& control)
{
    auto next = [&] {
        while (!control.readable()) {
            endpoint.progress();
        }
        return control.receive<Round>();
    };
    for (Round round; (round = next()).operation != Operation::end;) {
        bool write = round.operation == Operation::write;
        write ? window.clear(round) : window.fill(round);
        control.send(round);
        next(); // the client is done with it
        if (write) {
            window.check(round);
        }
        control.send(round);
    }
}

// Of one round; returns the seconds that the transfers took.
double transfer(Endpoint& endpoint, Window& window, Control& control, const Remote& remote,
                const Round& round, const Options& options)
{
    using Clock = std::chrono::steady_clock;
    bool write = round.operation == Operation::write;
    write ? window.fill(round) : window.clear(round);
    control.exchange(round);
    auto begin = Clock::now();
    for (size_t slot = 0; slot < options.window; ++slot) {
        endpoint.post(write, slot, window.piece(slot, round.size),
                      remote.address + Window::offset(slot, round.size), remote.key);
    }
    endpoint.wait_completed(options.window);
    std::chrono::duration<double> took = Clock::now() - begin;
    if (!write) {
        window.check(round);
    }
    control.exchange(round);
    return took.count();
}

void measure(Endpoint& endpoint, Window& window, Control& control, const Remote& remote,
             const Options& options)
{
    uint64_t seed = options.seed;
    fmt::print("{:<10}{:<10}{:<8}{:>10}{:>10}{:>12}\n", "operation", "bytes", "iters", "time",
               "MB/sec", "usec/xfer");
    for (auto operation : {Operation::write, Operation::read}) {
        for (size_t size = 1; size <= largest; size *= 2) {
            double seconds = 0;
            for (unsigned i = 0; i < options.rounds; ++i, seed += options.window) {
                seconds +=
                    transfer(endpoint, window, control, remote, {operation, size, seed}, options);
            }
            size_t transfers = options.window * options.rounds;
            fmt::print("{:<10}{:<10}{:<8}{:>9.2f}s{:>10.2f}{:>12.2f}\n",
                       operation == Operation::write ? "write" : "read", size, transfers, seconds,
                       static_cast<double>(size * transfers) / seconds / 1e6,
                       seconds * 1e6 / static_cast<double>(transfers));
        }
    }
    control.send(Round{});
}

void run(const Options& options)
{
    Endpoint endpoint(options, options.window * (largest + guard));
    Control control(options.server, options.port);
    endpoint.connect();
    fmt::print("provider {}, domain {}\n", endpoint.provider(), endpoint.domain());
    Window window(endpoint.memory(), options);
    auto remote = control.exchange(
        Remote{reinterpret_cast<uint64_t>(endpoint.memory().data()), endpoint.key()});
    if (options.server.empty()) {
        serve(endpoint, window, control);
    } else {
        measure(endpoint, window, control, remote, options);
    }
    control.barrier();
}

} // namespace

int main(int argc, char** argv)
{
    Options options;
    const std::map<std::string, fi_ep_type> types{{"msg", FI_EP_MSG}, {"rdm", FI_EP_RDM}};
    CLI::App app("Measures and checks libfabric's RMA with a peer. Without SERVER: waits for one.");
    app.add_option("-d,--domain", options.device, "RDMA device")->required();
    app.add_option("-e,--endpoint", options.type, "type")
        ->required()
        ->transform(CLI::CheckedTransformer(types));
    app.add_option("-p,--port", options.port, "of TCP, and libfabric's")->capture_default_str();
    app.add_option("-W,--window", options.window, "transfers outstanding, the same on both sides")
        ->check(CLI::Range(1, 128))
        ->capture_default_str();
    app.add_option("-n,--rounds", options.rounds, "windows of each size")->capture_default_str();
    app.add_option("--seed", options.seed)->capture_default_str();
    app.add_flag("--damage", options.damage,
                 "A bit of each window that this side fills: the peer must find it");
    app.add_option("server", options.server, "the server's address");
    CLI11_PARSE(app, argc, argv);
    try {
        run(options);
        return 0;
    } catch (const std::exception& e) {
        fmt::print(stderr, "fi-rma-bw: {}\n", e.what());
        return 1;
    }
}
