// SPDX-License-Identifier: GPL-2.0-or-later
//
// What another device says over the control channel of the verbs backend, and what a
// migration brings of that backend's own objects. The first byte chooses. What is
// understood must be the same when it is written again and read.
#include <cstdio>
#include <cstdlib>

#include "peer_messages.h"
#include "verbs/state_fields.h"

namespace {

using namespace rdma::verbs;

using Bytes = std::span<const uint8_t>;

void check(bool right, const char* what)
{
    if (!right) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

template <typename Body>
void read(Bytes bytes)
{
    Body body;
    if (!decode(bytes, body)) {
        return;
    }
    auto written = encode(body);
    Body again;
    check(decode(written, again), "what was written is not understood");
    check(encode(again) == written, "what was written reads as something else");
}

void read_frames(Bytes bytes)
{
    for (;;) {
        PeerFrame frame = first_frame(bytes);
        if (frame.state != PeerFrame::State::whole) {
            return;
        }
        check(frame.size <= bytes.size() && frame.body.size() < frame.size, "a frame too long");
        std::vector<uint8_t> written;
        append_frame(written, frame.kind, frame.id, frame.body);
        check(std::ranges::equal(written, bytes.first(frame.size)), "another frame");
        read<FindRequest>(frame.body);
        read<FindAnswer>(frame.body);
        read<KeysRequest>(frame.body);
        read<KeysAnswer>(frame.body);
        read<LinksRequest>(frame.body);
        read<LinksAnswer>(frame.body);
        read<MoveRequest>(frame.body);
        read<MoveAnswer>(frame.body);
        bytes = bytes.subspan(frame.size);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    Bytes bytes(data + 1, size - 1);
    switch (data[0] % 12) {
    case 0:
        read_frames(bytes);
        break;
    case 1:
        read<FindAnswer>(bytes);
        break;
    case 2:
        read<LinksRequest>(bytes);
        break;
    case 3:
        read<LinksAnswer>(bytes);
        break;
    case 4:
        read<MoveRequest>(bytes);
        break;
    case 5:
        read<MoveAnswer>(bytes);
        break;
    case 6:
        read<GidState>(bytes);
        break;
    case 7:
        read<MrState>(bytes);
        break;
    case 8:
        read<CqState>(bytes);
        break;
    case 9:
        read<SrqState>(bytes);
        break;
    default:
        read<QpState>(bytes);
        break;
    }
    return 0;
}
