// SPDX-License-Identifier: GPL-2.0-or-later
//
// An Ethernet switch between QEMUs' dgram netdevs: learns addresses, floods what
// it does not know, and loses, repeats, delays and corrupts frames as told, from
// a seed.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace frame_switch {

using Frame = std::vector<uint8_t>;
using Mac = std::array<uint8_t, 6>;

// Chances of what may happen to a frame, each from 0 to 1.
struct Faults {
    double lose = 0;
    double repeat = 0;
    double reorder = 0; // comes up to 2 ms late
    double corrupt = 0; // one bit, of RoCE frames only: others' checksums may be left to the NICs
};

struct Counters {
    uint64_t received = 0;
    uint64_t sent = 0;
    uint64_t lost = 0;
    uint64_t repeated = 0;
    uint64_t reordered = 0;
    uint64_t corrupted = 0;
    uint64_t congested = 0; // dropped: the queue of the port was full
    uint64_t unplugged = 0; // dropped: nobody at the port
};

// One cable: QEMU sends to the path own, and has bound the path peer. It may
// come, go and come back.
class Port {
public:
    Port(const std::string& own, std::string peer);
    ~Port();
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;

    // The next frame that has come. False: none.
    bool receive(Frame& out);
    // Queues a frame and sends what the peer takes.
    void send(Frame frame, Counters& counters);
    void flush(Counters& counters);

    int input() const { return _input; }
    int output() const { return _output; }
    bool waiting() const { return !_queue.empty(); }

private:
    // Frames that wait for the peer, as in a switch's port.
    static constexpr size_t max_queue = 4096;

    bool plug();
    void unplug();

    int _input = -1;
    int _output = -1; // connected to the peer, or -1
    std::string _peer;
    std::deque<Frame> _queue;
};

class Switch {
public:
    explicit Switch(uint64_t seed) : _random(seed) {}

    void add_port(const std::string& own, const std::string& peer)
    {
        _ports.push_back(std::make_unique<Port>(own, peer));
    }
    void set_faults(const Faults& faults) { _faults = faults; }
    const Counters& counters() const { return _counters; }
    // The beginning of every frame that comes, from now on, with the time of day
    // (pcap). Empty: no more. False: the file cannot be written.
    bool capture(const std::string& file);

    // Carries frames until there is something to read from the descriptor.
    void run_until_readable(int descriptor);

private:
    struct Held {
        size_t port;
        Frame frame;
    };

    void record(const Frame& frame);
    void forward(size_t from, Frame& frame);
    void deliver(size_t port, const Frame& frame);
    bool happens(double chance);
    int64_t release_held(); // nanoseconds to the next one, -1: none

    std::mt19937_64 _random;
    Faults _faults;
    Counters _counters;
    std::ofstream _capture;
    std::vector<std::unique_ptr<Port>> _ports;
    std::map<Mac, size_t> _learnt; // port of each address
    std::multimap<int64_t, Held> _held; // by the time they go on
};

} // namespace frame_switch
