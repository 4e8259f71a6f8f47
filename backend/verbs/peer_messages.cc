// SPDX-License-Identifier: GPL-2.0-or-later
#include "peer_messages.h"

namespace rdma::verbs {

namespace {

uint32_t load_le(std::span<const uint8_t> bytes)
{
    uint32_t value = 0;
    for (size_t i = bytes.size(); i-- > 0;) {
        value = value << 8 | bytes[i];
    }
    return value;
}

void append_le(std::vector<uint8_t>& bytes, uint32_t value, size_t size)
{
    for (size_t i = 0; i < size; ++i) {
        bytes.push_back(static_cast<uint8_t>(value >> 8 * i));
    }
}

} // namespace

PeerFrame first_frame(std::span<const uint8_t> bytes)
{
    PeerFrame frame;
    if (bytes.size() < peer_length_size) {
        return frame;
    }
    uint32_t length = load_le(bytes.first(peer_length_size));
    if (length < peer_header_size || length > max_peer_frame) {
        frame.state = PeerFrame::State::wrong;
        return frame;
    }
    frame.size = peer_length_size + length;
    bytes = bytes.subspan(peer_length_size);
    if (bytes.size() < length) {
        return frame;
    }
    frame.kind = static_cast<uint16_t>(load_le(bytes.first(2)));
    frame.id = load_le(bytes.subspan(4, 4));
    frame.body = bytes.first(length).subspan(peer_header_size);
    frame.state = load_le(bytes.subspan(2, 2)) == peer_version ? PeerFrame::State::whole
                                                               : PeerFrame::State::wrong;
    return frame;
}

void append_frame(std::vector<uint8_t>& bytes, uint16_t kind, uint32_t id,
                  std::span<const uint8_t> body)
{
    append_le(bytes, static_cast<uint32_t>(peer_header_size + body.size()), peer_length_size);
    append_le(bytes, kind, 2);
    append_le(bytes, peer_version, 2);
    append_le(bytes, id, 4);
    bytes.insert(bytes.end(), body.begin(), body.end());
}

} // namespace rdma::verbs
