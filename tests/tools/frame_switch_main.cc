// SPDX-License-Identifier: GPL-2.0-or-later
//
// frame-switch [--seed N] OWN:PEER...: each argument is a port; QEMU is at it with
//   -netdev dgram,local.type=unix,local.path=PEER,remote.type=unix,remote.path=OWN
// Commands come in lines on stdin, each is answered by a line; at the end of
// stdin the switch ends.
//   faults LOSE REPEAT REORDER CORRUPT    chances from 0 to 1; answer: ok
//   stats                                 answer: the counters, as JSON
//   capture [FILE]                        what comes from now on, or no more; answer: ok
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <sstream>

#include "frame_switch.h"

using namespace frame_switch;

namespace {

std::string answer(Switch& network, const std::string& line)
{
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "stats") {
        const Counters& c = network.counters();
        return fmt::format("{{\"received\": {}, \"sent\": {}, \"lost\": {}, \"repeated\": {}, "
                           "\"reordered\": {}, \"corrupted\": {}, \"congested\": {}, "
                           "\"unplugged\": {}}}",
                           c.received, c.sent, c.lost, c.repeated, c.reordered, c.corrupted,
                           c.congested, c.unplugged);
    }
    if (command == "capture") {
        std::string file;
        words >> file;
        return network.capture(file) ? "ok" : "what?";
    }
    Faults faults;
    if (command == "faults" &&
        words >> faults.lose >> faults.repeat >> faults.reorder >> faults.corrupt) {
        network.set_faults(faults);
        return "ok";
    }
    return "what?";
}

} // namespace

int main(int argc, char** argv)
{
    uint64_t seed = 1;
    std::vector<std::string> ports;
    CLI::App app("An Ethernet switch between QEMUs, with faults.");
    app.add_option("--seed", seed, "of the faults")->capture_default_str();
    app.add_option("ports", ports, "OWN:PEER of each port")->required();
    CLI11_PARSE(app, argc, argv);
    try {
        Switch network(seed);
        for (const std::string& port : ports) {
            size_t colon = port.find(':');
            if (colon == std::string::npos) {
                throw std::runtime_error("not a port: " + port);
            }
            network.add_port(port.substr(0, colon), port.substr(colon + 1));
        }
        std::string pending;
        for (;;) {
            network.run_until_readable(STDIN_FILENO);
            char bytes[4096];
            ssize_t size = read(STDIN_FILENO, bytes, sizeof(bytes));
            if (size <= 0) {
                return 0;
            }
            pending.append(bytes, static_cast<size_t>(size));
            for (size_t end; (end = pending.find('\n')) != std::string::npos;
                 pending.erase(0, end + 1)) {
                fmt::print("{}\n", answer(network, pending.substr(0, end)));
                std::fflush(stdout);
            }
        }
    } catch (const std::exception& e) {
        fmt::print(stderr, "frame-switch: {}\n", e.what());
        return 1;
    }
}
