// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two engines on a network in virtual time.
#include <algorithm>
#include <deque>
#include <vector>

#include "backend_end.h"
#include "engine.h"

namespace rdma::test {

namespace {

class EngineLink final : public roce::Link {
public:
    explicit EngineLink(uint8_t number) : _number(number) {}
    bool send(std::span<const uint8_t> frame) override
    {
        sent.emplace_back(frame.begin(), frame.end());
        return true;
    }
    Mac mac() override { return {2, 0, 0, 0, 0, _number}; }
    uint32_t mtu() override { return 4500; }

    std::deque<std::vector<uint8_t>> sent;

private:
    uint8_t _number;
};

class RocePair final : public BackendPair {
public:
    RocePair()
        : _link_a(1), _link_b(2), _engine_a(a.limits, a.memory, a.stats, _link_a),
          _engine_b(b.limits, b.memory, b.stats, _link_b)
    {
        set_up(a, _engine_a, _link_a, 1);
        set_up(b, _engine_b, _link_b, 2);
    }

    bool run_until(const std::function<bool()>& done) override
    {
        for (;;) {
            run_engines();
            if (done()) {
                return true;
            }
            int64_t next = std::min(_engine_a.next_deadline(), _engine_b.next_deadline());
            if (next == roce::no_deadline) {
                return false;
            }
            _now = std::max(_now, next);
            _engine_a.advance(_now);
            _engine_b.advance(_now);
        }
    }

private:
    void set_up(BackendEnd& end, roce::Engine& engine, EngineLink& link, uint8_t number)
    {
        engine.set_client(end);
        end.gid.raw[10] = end.gid.raw[11] = 0xff;
        end.gid.raw[12] = 10;
        end.gid.raw[15] = number;
        end.mac = link.mac();
        end.set_up(engine);
    }
    void run_engines()
    {
        for (bool more = true; more;) {
            more = _engine_a.run(_now, 64);
            more |= _engine_b.run(_now, 64);
            more |= deliver(_link_a, _engine_b);
            more |= deliver(_link_b, _engine_a);
        }
    }
    bool deliver(EngineLink& from, roce::Engine& to)
    {
        bool any = !from.sent.empty();
        for (const auto& frame : std::exchange(from.sent, {})) {
            if (to.wants(frame)) {
                to.receive(frame, _now);
            }
        }
        return any;
    }

    EngineLink _link_a;
    EngineLink _link_b;
    roce::Engine _engine_a;
    roce::Engine _engine_b;
    int64_t _now = 0;
};

} // namespace

std::unique_ptr<BackendPair> make_roce_pair()
{
    return std::make_unique<RocePair>();
}

} // namespace rdma::test
