// SPDX-License-Identifier: GPL-2.0-or-later
//
// Each side requests on every QP, and answers the other. What request n of a
// QP is follows from the seed, so that both sides know it:
//   SEND           the receiver checks order, length and content
//   WRITE          into slots that only this QP's requester uses; a later READ
//                  of its own must bring back the last one's content
//   WRITE_WITH_IMM the same; the receiver checks order, length and immediate
//   atomics        on words that only this QP's requester uses: what returns
//                  must be what its requests so far, each done once, make it
#include <chrono>
#include <csignal>
#include <deque>
#include <optional>

#include "pattern.h"
#include "suites.h"

namespace verify {

namespace {

using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t is_terminated = 0;

constexpr unsigned max_pieces = 3;
constexpr size_t word = 8;
constexpr std::chrono::milliseconds report_interval{250};

// What request n is.
struct Request {
    ibv_wr_opcode opcode;
    size_t size;
    uint64_t seed;

    bool is_send() const { return opcode == IBV_WR_SEND || opcode == IBV_WR_SEND_WITH_IMM; }
    bool is_write() const
    {
        return opcode == IBV_WR_RDMA_WRITE || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
    }
    bool consumes_receive() const { return is_send() || opcode == IBV_WR_RDMA_WRITE_WITH_IMM; }
    bool has_immediate() const
    {
        return opcode == IBV_WR_SEND_WITH_IMM || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
    }
    bool returns_data() const { return !is_send() && !is_write(); }
};

Request request_at(uint64_t stream_seed, uint64_t n, const StreamOptions& options)
{
    constexpr ibv_wr_opcode opcodes[] = {
        IBV_WR_SEND,       IBV_WR_SEND,       IBV_WR_SEND,
        IBV_WR_SEND_WITH_IMM, IBV_WR_SEND_WITH_IMM,
        IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE,
        IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_RDMA_WRITE_WITH_IMM,
        IBV_WR_RDMA_READ,  IBV_WR_RDMA_READ,  IBV_WR_RDMA_READ,
        IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WR_ATOMIC_FETCH_AND_ADD};
    uint64_t seed = mix(stream_seed + n * 0x9e3779b97f4a7c15);
    // Sizes of every magnitude.
    size_t limit = std::max(options.max_size >> (seed >> 8) % 8, options.min_size);
    size_t size = options.min_size + (seed >> 16) % (limit - options.min_size + 1);
    return {opcodes[seed % std::size(opcodes)], size, seed};
}

// A QP with both of its directions.
class Channel {
public:
    Channel(Peer& peer, const StreamOptions& options, ibv_cq* send_cq, ibv_cq* recv_cq,
            unsigned index)
        : _options(options), _index(index),
          // source or READ slots, receive slots, slots written to, two words
          _slots(peer.device, (4 * size_t{options.depth}) * options.max_size + 2 * word),
          _qp(peer.device.create_qp(IBV_QPT_RC, send_cq, recv_cq,
                                    {options.depth, options.depth, max_pieces, 1, 0})),
          _our_seed(mix(options.seed ^ mix(2 * index + peer.is_client))),
          _their_seed(mix(options.seed ^ mix(2 * index + !peer.is_client)))
    {
        QpAddress ours = address_of(peer.device, *_qp);
        connect(peer.device, _qp.get(), ours, peer.control.exchange(ours));
        struct Target {
            uint64_t address;
            uint32_t rkey;
        };
        auto target = peer.control.exchange(Target{_slots.address(), _slots.rkey()});
        _remote = target.address;
        _rkey = target.rkey;
        for (unsigned i = 0; i < options.depth; ++i) {
            post_receive();
        }
    }

    // Posts what there is room for. limit: of requests; last: the one before
    // the limit is the last of all.
    void post(uint64_t limit, bool last)
    {
        while (_next < limit && _next - _oldest() < _options.depth) {
            post_next(last && _next + 1 == limit);
        }
    }
    // No request of ours is outstanding.
    bool idle() const { return _outstanding.empty(); }
    uint64_t posted() const { return _next; }
    uint64_t consumed() const { return _consumed; }
    uint64_t received() const { return _received; }

    void sent(const ibv_wc& wc)
    {
        uint64_t n = wc.wr_id & 0xffffffff;
        expect(wc.status == IBV_WC_SUCCESS, "QP {}, request {}: {}", _index, n,
               ibv_wc_status_str(wc.status));
        while (!_outstanding.empty() && _outstanding.front().n != n) {
            expect(!_outstanding.front().signaled, "QP {}: request {} completed before {}", _index,
                   n, _outstanding.front().n);
            _outstanding.pop_front();
        }
        expect(!_outstanding.empty(), "QP {}: request {} completed twice", _index, n);
        Outstanding request = _outstanding.front();
        _outstanding.pop_front();
        expect(request.signaled, "QP {}: request {} completed unasked", _index, n);
        auto slot = _slots.bytes().subspan(source_offset(n), _options.max_size);
        if (request.opcode == IBV_WR_RDMA_READ) {
            check(slot.first(request.size), request.expected, 0, "READ");
        } else if (request.opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
                   request.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
            uint64_t value;
            std::memcpy(&value, slot.data(), sizeof(value));
            expect(value == request.expected, "QP {}: atomic {} returned {:#x} instead of {:#x}",
                   _index, n, value, request.expected);
        }
    }

    void got(const ibv_wc& wc)
    {
        uint64_t r = wc.wr_id & 0xffffffff;
        expect(wc.status == IBV_WC_SUCCESS, "QP {}, receive {}: {}", _index, r,
               ibv_wc_status_str(wc.status));
        expect(r == (_received & 0xffffffff), "QP {}: receive {} completed instead of {}", _index,
               r, _received);
        Request request;
        do {
            request = request_at(_their_seed, _their_next++, _options);
        } while (!request.consumes_receive());
        uint64_t n = _their_next - 1;
        expect(wc.byte_len == request.size, "QP {}: message {} has {} bytes instead of {}", _index,
               n, wc.byte_len, request.size);
        expect(wc.opcode == (request.is_send() ? IBV_WC_RECV : IBV_WC_RECV_RDMA_WITH_IMM),
               "QP {}: message {} received as {}", _index, n, static_cast<int>(wc.opcode));
        expect(bool(wc.wc_flags & IBV_WC_WITH_IMM) == request.has_immediate() &&
                   (!request.has_immediate() || wc.imm_data == static_cast<uint32_t>(n)),
               "QP {}: immediate data of message {}", _index, n);
        if (request.is_send()) {
            check(_slots.bytes().subspan(receive_offset(_received), request.size), request.seed, 0,
                  "SEND");
        }
        ++_received;
        post_receive();
    }

private:
    struct Outstanding {
        uint64_t n;
        ibv_wr_opcode opcode;
        size_t size;
        bool signaled;
        uint64_t expected; // seed of a READ's content; what an atomic returns
    };

    uint64_t _oldest() const { return _outstanding.empty() ? _next : _outstanding.front().n; }
    size_t source_offset(uint64_t n) const { return n % _options.depth * _options.max_size; }
    size_t receive_offset(uint64_t r) const
    {
        return (_options.depth + r % _options.depth) * _options.max_size;
    }
    // Twice as many as are outstanding: a slot is not written while a READ of
    // it may be under way.
    size_t target_offset(uint64_t write) const
    {
        return (2 * _options.depth + write % (2 * _options.depth)) * _options.max_size;
    }
    size_t word_offset(unsigned i) const
    {
        return 4 * size_t{_options.depth} * _options.max_size + i * word;
    }
    uint64_t wr_id(uint64_t n) const { return uint64_t{_index} << 32 | (n & 0xffffffff); }

    void post_receive()
    {
        ibv_sge sge = _slots.sge(receive_offset(_posted_receives), _options.max_size);
        post_recv(_qp.get(), wr_id(_posted_receives), {&sge, 1});
        ++_posted_receives;
    }

    void post_next(bool is_last)
    {
        uint64_t n = _next++;
        Request request = request_at(_our_seed, n, _options);
        if (request.opcode == IBV_WR_RDMA_READ && _writes == 0) {
            request.opcode = IBV_WR_ATOMIC_FETCH_AND_ADD;
        }
        Outstanding out{n, request.opcode, request.size, true, 0};
        out.signaled = request.returns_data() || is_last || (request.seed >> 60) % 2 ||
                       n % (_options.depth / 4 + 1) == 0;
        ibv_send_wr wr{};
        size_t source = source_offset(n);
        if (request.is_send() || request.is_write()) {
            fill(_slots.bytes().subspan(source, request.size), request.seed);
        }
        switch (request.opcode) {
        case IBV_WR_RDMA_WRITE:
        case IBV_WR_RDMA_WRITE_WITH_IMM:
            wr.wr.rdma = {_remote + target_offset(_writes), _rkey};
            ++_writes;
            _last_write_size = request.size;
            _last_write_seed = request.seed;
            break;
        case IBV_WR_RDMA_READ:
            wr.wr.rdma = {_remote + target_offset(_writes - 1), _rkey};
            out.size = _last_write_size;
            out.expected = _last_write_seed;
            break;
        case IBV_WR_ATOMIC_CMP_AND_SWP: {
            // Every fourth compares with what is not there.
            bool matches = request.seed >> 58 & 3;
            uint64_t swap = mix(request.seed);
            wr.wr.atomic = {_remote + word_offset(0), matches ? _swapped : _swapped + 1, swap,
                            _rkey};
            out.expected = _swapped;
            out.size = word;
            _swapped = matches ? swap : _swapped;
            break;
        }
        case IBV_WR_ATOMIC_FETCH_AND_ADD:
            wr.wr.atomic = {_remote + word_offset(1), request.seed, 0, _rkey};
            out.expected = _added;
            out.size = word;
            _added += request.seed;
            break;
        default:
            break;
        }
        _consumed += request.consumes_receive();

        ibv_sge sge[max_pieces];
        unsigned pieces = 0;
        for (size_t at = 0; at < out.size;) {
            bool rest = pieces + 1 == max_pieces || request.returns_data();
            size_t length = rest ? out.size - at : std::min(out.size - at, out.size / 2 | 1);
            sge[pieces++] = _slots.sge(source + at, length);
            at += length;
        }
        wr.wr_id = wr_id(n);
        wr.opcode = request.opcode;
        wr.send_flags = out.signaled ? IBV_SEND_SIGNALED : 0;
        wr.imm_data = static_cast<uint32_t>(n);
        wr.sg_list = sge;
        wr.num_sge = static_cast<int>(pieces);
        _outstanding.push_back(out);
        post_send(_qp.get(), wr);
    }

    const StreamOptions& _options;
    unsigned _index;
    Buffer _slots;
    OwnedQp _qp;
    uint64_t _our_seed;
    uint64_t _their_seed;
    uint64_t _remote = 0;
    uint32_t _rkey = 0;

    // Requests.
    uint64_t _next = 0;
    uint64_t _consumed = 0; // receives of the peer's, by the requests posted
    uint64_t _writes = 0;
    size_t _last_write_size = 0;
    uint64_t _last_write_seed = 0;
    uint64_t _swapped = 0; // the peer's words, as our requests leave them
    uint64_t _added = 0;
    std::deque<Outstanding> _outstanding;

    // Receives.
    uint64_t _posted_receives = 0;
    uint64_t _received = 0;
    uint64_t _their_next = 0;
};

class Stream {
public:
    Stream(Peer& peer, const StreamOptions& options)
        : _peer(peer), _options(options), _send_cq(peer.device.create_cq(cq_size())),
          _recv_cq(peer.device.create_cq(cq_size()))
    {
        for (unsigned i = 0; i < options.qps; ++i) {
            _channels.push_back(std::make_unique<Channel>(peer, options, _send_cq.get(),
                                                          _recv_cq.get(), i));
        }
    }

    void run()
    {
        _peer.control.barrier(); // the peer's receives are posted
        Clock::time_point start = _last_news = Clock::now();
        Clock::time_point end = start + std::chrono::seconds(_options.seconds);
        Clock::time_point report = start;
        bool stopping = _options.seconds == 0;
        uint64_t limit = stopping ? _options.messages : UINT64_MAX;
        std::vector<uint64_t> limits(_channels.size(), limit);
        std::optional<std::vector<uint64_t>> to_receive;
        bool told = false;
        for (;;) {
            bool all_idle = true;
            bool all_received = to_receive.has_value();
            for (size_t i = 0; i < _channels.size(); ++i) {
                Channel& channel = *_channels[i];
                channel.post(limits[i], stopping);
                all_idle = all_idle && channel.posted() == limits[i] && channel.idle();
                all_received = all_received && channel.received() == (*to_receive)[i];
            }
            poll();
            if (!stopping && (Clock::now() >= end || is_terminated)) {
                stopping = true;
                for (size_t i = 0; i < _channels.size(); ++i) {
                    limits[i] = _channels[i]->posted() + 1; // the last one is signaled
                }
                continue;
            }
            if (_options.seconds != 0 && Clock::now() >= report) {
                print("so far");
                _gap_since_report = {};
                report += report_interval;
            }
            if (all_idle && !told) {
                told = true;
                for (auto& channel : _channels) {
                    _peer.control.send(channel->consumed());
                }
            }
            if (!to_receive && _peer.control.readable()) {
                to_receive.emplace();
                for (size_t i = 0; i < _channels.size(); ++i) {
                    to_receive->push_back(_peer.control.receive<uint64_t>());
                }
            }
            if (told && all_received) {
                break;
            }
        }
        _peer.control.barrier();
        expect_empty(_send_cq.get());
        expect_empty(_recv_cq.get());
        print("in all");
    }

private:
    int cq_size() const { return static_cast<int>(_options.qps * _options.depth); }

    void poll()
    {
        constexpr int batch = 32;
        ibv_wc wc[batch];
        for (ibv_cq* cq : {_recv_cq.get(), _send_cq.get()}) {
            int n = ibv_poll_cq(cq, batch, wc);
            expect(n >= 0, "ibv_poll_cq failed");
            for (int i = 0; i < n; ++i) {
                Channel& channel = *_channels.at(wc[i].wr_id >> 32);
                if (cq == _recv_cq.get()) {
                    channel.got(wc[i]);
                } else {
                    channel.sent(wc[i]);
                }
            }
            if (n > 0) {
                auto now = Clock::now();
                _longest_gap = std::max(_longest_gap, now - _last_news);
                _gap_since_report = std::max(_gap_since_report, now - _last_news);
                _last_news = now;
            }
        }
        expect(Clock::now() - _last_news < std::chrono::minutes(2),
               "no completion for two minutes");
    }

    void print(const char* when) const
    {
        uint64_t requests = 0;
        uint64_t received = 0;
        uint64_t least = UINT64_MAX;
        for (auto& channel : _channels) {
            requests += channel->posted();
            received += channel->received();
            least = std::min(least, channel->received());
        }
        auto ms = [](Clock::duration gap) {
            return std::chrono::duration<double, std::milli>(gap).count();
        };
        fmt::print("stream: {}: {} requests, {} messages received, {} at least on each QP, longest gap "
                   "{:.1f} ms, {:.1f} ms since the last report\n",
                   when, requests, received, least, ms(_longest_gap), ms(_gap_since_report));
        std::fflush(stdout);
    }

    Peer& _peer;
    const StreamOptions& _options;
    OwnedCq _send_cq;
    OwnedCq _recv_cq;
    std::vector<std::unique_ptr<Channel>> _channels;
    Clock::time_point _last_news;
    Clock::duration _longest_gap{}; // between two completions of any QP
    Clock::duration _gap_since_report{};
};

} // namespace

void verify_stream(Peer& peer, const StreamOptions& options)
{
    if (options.seconds != 0) {
        std::signal(SIGTERM, [](int) { is_terminated = 1; });
    }
    Stream(peer, options).run();
}

} // namespace verify
