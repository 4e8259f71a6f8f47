// SPDX-License-Identifier: GPL-2.0-or-later
#include "connection_message.h"

namespace rdma::roce {

namespace {

// The common MAD header, 13.4.3.
constexpr size_t mad_size = 256;
constexpr size_t management_class_at = 1;
constexpr size_t attribute_id_at = 16;
constexpr uint8_t class_communication_management = 0x07;
// Table 106.
constexpr uint16_t attribute_req = 0x0010;
constexpr uint16_t attribute_rep = 0x0013;
// REQ, 12.6.5: Local QPN, and RNR Retry Count in the low 3 bits.
constexpr size_t req_local_qpn_at = 24 + 32;
constexpr size_t req_rnr_retry_at = 24 + 50;
// REP, 12.6.8: Local QPN, and RNR Retry Count in the high 3 bits.
constexpr size_t rep_local_qpn_at = 24 + 12;
constexpr size_t rep_rnr_retry_at = 24 + 27;

uint32_t be24_at(std::span<const uint8_t> bytes, size_t at)
{
    return static_cast<uint32_t>(bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2]);
}

} // namespace

std::optional<PeerRnrRetry> rnr_retry_asked_for(std::span<const uint8_t> mad)
{
    if (mad.size() < mad_size || mad[management_class_at] != class_communication_management) {
        return std::nullopt;
    }
    auto attribute =
        static_cast<uint16_t>(mad[attribute_id_at] << 8 | mad[attribute_id_at + 1]);
    switch (attribute) {
    case attribute_req:
        return PeerRnrRetry{be24_at(mad, req_local_qpn_at),
                            static_cast<uint8_t>(mad[req_rnr_retry_at] & 7)};
    case attribute_rep:
        return PeerRnrRetry{be24_at(mad, rep_local_qpn_at),
                            static_cast<uint8_t>(mad[rep_rnr_retry_at] >> 5)};
    default:
        return std::nullopt;
    }
}

} // namespace rdma::roce
