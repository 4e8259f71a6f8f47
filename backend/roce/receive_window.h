// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a responder expects, owes and remembers (IBTA vol. 1, 9.7.4 and 9.7.5): the PSN of the next
// request, the acknowledgements and answers that are still to be sent, and the READs and atomics
// that a duplicate may ask for again. A UC QP has the expected PSN alone.
//
// What is owed is sent in this order: the acknowledgement of a duplicate from before the answers;
// the answers with data, in the order of their PSNs; a NAK or an acknowledgement, which say what is
// so when they are sent.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "growing_ring.h"
#include "psn.h"
#include "wire.h"

namespace rdma::roce {

struct ResponderState;

// A READ or atomic request executed, for when its duplicate comes.
struct ResponderResource {
    bool atomic;
    Psn first_psn;
    uint32_t num_packets;
    uint64_t original; // atomic: the value before

    Psn end_psn() const { return first_psn + num_packets; } // one past its last
};

// The answer to a READ or atomic request that the responder has yet to send.
struct Response {
    enum class Kind : uint8_t { read, atomic } kind;
    bool again;         // sent before: the answer to a duplicate
    Psn psn;            // of the next packet
    uint32_t remaining_packets;
    bool started;       // read: its first packet is out
    uint64_t address;   // read: of the next packet
    uint32_t rkey;
    uint32_t remaining; // read: bytes
    uint64_t original;  // atomic
};

class ReceiveWindow {
public:
    enum class Place : uint8_t { duplicate, expected, ahead };

    // Nothing has been received; psn comes first.
    void start(Psn psn)
    {
        _expected = psn;
        _msn = 0;
    }
    // As many READs and atomics as the QP may have (max_dest_rd_atomic): the newest are remembered
    // where it had more.
    void limit(uint8_t reads);
    // Memory for so many, remembered and to be answered, which most QPs never need: from the first
    // request on it is there. False: there is none just now.
    [[nodiscard]] bool reserve(uint8_t reads) noexcept;

    // 9.7.4.1: where a PSN is. For a responder of RC.
    // [IBTA 9.7.1-5]
    Place place(Psn psn) const
    {
        int32_t ahead = psn - _expected;
        return ahead == 0 ? Place::expected : ahead < 0 ? Place::duplicate : Place::ahead;
    }
    Psn expected() const { return _expected; }
    uint32_t msn() const { return _msn; }

    // UC: the packet with the PSN is the next, whatever was expected.
    void expect(Psn psn) { _expected = psn; }
    // The expected packet has come: a NAK that has not been sent yet is void.
    void arrived()
    {
        _nak_sent = false;
        _nak = no_nak;
    }
    // What has been carried out ends before the PSN; whether a message ends with it.
    void carried_out(Psn end, bool message_done);

    // The peer wants an acknowledgement of all that has been carried out.
    void owe_ack() { _ack = true; }
    // A duplicate is to be acknowledged: not beyond a READ or atomic whose answer its sender may
    // wait for; the acknowledgement would be an implied NAK.
    void owe_ack_of_duplicate(Psn psn);
    // A NAK or RNR NAK of the expected packet, which acknowledges all before it. One for each
    // arrival of that packet is enough: sequence errors are told by owe_nak_of_gap().
    void owe_nak(uint8_t syndrome) { _nak = syndrome; }
    // The same, until the packet comes again that it is about.
    // [IBTA 9.7.5.2.8-2]
    void owe_rnr_nak(uint8_t syndrome)
    {
        _nak_sent = true;
        owe_nak(syndrome);
    }
    // A packet is missing. False: its NAK has been sent.
    bool owe_nak_of_gap();

    // 9.7.4.1.7: whether one READ or atomic more is within so many. The requester has had the
    // answers that it asked for again, or it would not ask for more: they need not be sent.
    bool make_room(uint8_t reads);
    // A READ or atomic has been executed: remembers it as one of so many, the newest.
    void remember(const ResponderResource& resource, uint8_t reads);
    // Of the READ or atomic that the duplicate request is one of, or null.
    const ResponderResource* remembered(Psn psn, bool atomic) const;
    void owe(const Response& response) { _responses.push_back(response); }
    // The requester has gone back to the PSN: it asks again for all answers from there on.
    void forget_answers_from(Psn psn);
    // Nothing that is owed is sent any more.
    void forget_owed();

    // The acknowledgement of a duplicate, if that is what is sent next.
    // [IBTA 9.5-6]
    std::optional<Psn> take_duplicate_ack()
    {
        bool next = _duplicate_ack && (_responses.empty() || *_duplicate_ack < _responses.front().psn);
        return next ? std::exchange(_duplicate_ack, std::nullopt) : std::nullopt;
    }
    // Answers to READs and atomics, in order.
    size_t num_responses() const { return _responses.size(); }
    Response& response(size_t i) { return _responses[i]; }
    const Response& response(size_t i) const { return _responses[i]; }
    void pop_response() { _responses.pop_front(); }
    // Whether the data of a READ is sent next.
    bool sends_read_next() const
    {
        return num_responses() > 0 && response(0).kind == Response::Kind::read &&
               !(_duplicate_ack && *_duplicate_ack < response(0).psn);
    }
    // The syndrome of the NAK that is owed; nothing where there is none. It stands for an
    // acknowledgement, too.
    std::optional<uint8_t> take_nak();
    // Whether an acknowledgement is owed. None is where a READ or an atomic was carried out last:
    // its answer is its acknowledgement. One without the data must not follow it: where the answer
    // was lost, it would be an implied NAK, and Linux's rxe takes it for the answer.
    // [IBTA 9.7.2-3]
    bool take_ack() { return std::exchange(_ack, false) && !ends_with_answer(); }

    // After a state has been read into it. mtu: bytes, 0 if not known. Whether its answers make sense.
    bool is_sound(uint32_t mtu) const;

private:
    static constexpr uint8_t no_nak = 0; // the syndrome of an ACK

    template <typename Archive>
    friend void describe(Archive& a, ResponderState& resp);
    friend struct OwedAnswers;

    bool ends_with_answer() const
    {
        return !_resources.empty() && newest().end_psn() == _expected;
    }
    const ResponderResource& newest() const { return _resources[_resources.size() - 1]; }

    Psn _expected;
    uint32_t _msn = 0;
    bool _ack = false;
    uint8_t _nak = no_nak;
    bool _nak_sent = false; // or owed; until the expected packet comes
    std::optional<Psn> _duplicate_ack;
    // Each at most max_dest_rd_atomic.
    GrowingRing<ResponderResource> _resources; // newest last
    GrowingRing<Response> _responses;          // in the order of their PSNs
};

} // namespace rdma::roce
