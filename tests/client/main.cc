// SPDX-License-Identifier: GPL-2.0-or-later
//
// rdma-verify: an RDMA client and server that check what they send each other.
// Exit status: 0 all is well, 1 a check failed.
#include <CLI/CLI.hpp>

#include <map>

#include "suites.h"

using namespace verify;

int main(int argc, char** argv)
{
    std::string device;
    int gid_index = 0;
    std::string suite;
    std::string server;
    uint16_t port = 18600;
    StreamOptions stream;
    ScaleOptions scale;
    const std::map<std::string, std::function<void(Peer&)>> suites{
        {"opcodes", verify_opcodes},
        {"maximum", verify_maximum},
        {"datagrams", verify_datagrams},
        {"errors", verify_errors},
        {"scale", [&](Peer& peer) { verify_scale(peer, scale); }},
        {"patience", verify_patience},
        {"stream", [&](Peer& peer) { verify_stream(peer, stream); }},
    };
    std::vector<std::string> names;
    for (auto& [name, run] : suites) {
        names.push_back(name);
    }

    CLI::App app("Checks an RDMA device with a peer. Without SERVER: waits for one.");
    app.add_option("-d,--device", device, "RDMA device")->required();
    app.add_option("-g,--gid-index", gid_index, "index of the GID to use")->required();
    app.add_option("-p,--port", port, "TCP port to set up with")->capture_default_str();
    app.add_option("suite", suite, "what to check")->required()->check(CLI::IsMember(names));
    app.add_option("server", server, "the server's host name or address");
    auto* group = app.add_option_group("stream", "the same on both sides");
    group->add_option("--qps", stream.qps)->check(CLI::Range(1, 4096))->capture_default_str();
    group->add_option("--depth", stream.depth, "requests outstanding per QP")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    group->add_option("--messages", stream.messages, "per QP and direction")->capture_default_str();
    group->add_option("--seconds", stream.seconds, "go on for so long instead, or until SIGTERM");
    group->add_option("--min-size", stream.min_size, "bytes")
        ->check(CLI::Range(0, 8))
        ->capture_default_str();
    group->add_option("--max-size", stream.max_size, "bytes")
        ->check(CLI::Range(8, 1 << 20))
        ->capture_default_str();
    group->add_option("--seed", stream.seed)->capture_default_str();
    auto* many = app.add_option_group("scale", "the same on both sides");
    many->add_option("--connections", scale.qps, "RC QPs at once")
        ->check(CLI::Range(0, 65535))
        ->capture_default_str();
    many->add_option("--regions", scale.regions, "memory regions at once")->capture_default_str();
    many->add_option("--rounds", scale.rounds)->capture_default_str();
    many->add_option("--size", scale.size, "bytes of a message")
        ->check(CLI::Range(8, 1 << 20))
        ->capture_default_str();
    many->add_option("--hold", scale.pipe, "named pipe: waits for a writer between the steps");
    CLI11_PARSE(app, argc, argv);

    try {
        Peer peer{Device(device, gid_index), Control(server, port), !server.empty()};
        suites.at(suite)(peer);
        return 0;
    } catch (const std::exception& e) {
        fmt::print(stderr, "rdma-verify {}: {}\n", suite, e.what());
        return 1;
    }
}
