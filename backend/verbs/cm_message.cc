// SPDX-License-Identifier: GPL-2.0-or-later
#include "cm_message.h"

#include <infiniband/umad_types.h>

#include <cstring>

#include "mad_port.h"

namespace rdma::verbs {

namespace {

// The common MAD header, 13.4.3.
constexpr size_t base_version_at = 0;
constexpr size_t class_at = 1;
constexpr size_t class_version_at = 2;
constexpr size_t method_at = 3;
constexpr size_t attribute_at = 16;
constexpr size_t data_at = 24;
constexpr uint8_t base_version = 1;
constexpr uint8_t cm_class_version = 2;

// From the data's beginning.
constexpr size_t first_id_at = 0;
constexpr size_t second_id_at = 4;
constexpr size_t service_id_at = 8; // REQ, 12.6.5, and SIDR_REQ, 12.11.1
constexpr size_t req_private_at = 140;
constexpr size_t sidr_req_private_at = 16;

// Of the private data that the RDMA IP CM service begins with, annex A11.
constexpr size_t ip_version_at = 1; // the high 4 bits
constexpr size_t ip_destination_at = 20;
constexpr size_t v4_in_address_at = 12;

template <typename T>
T big_endian_at(std::span<const std::byte> bytes, size_t at)
{
    T value = 0;
    for (std::byte byte : bytes.subspan(at, sizeof(T))) {
        value = static_cast<T>(value << 8 | std::to_integer<T>(byte));
    }
    return value;
}

bool is_known(uint16_t attribute)
{
    return attribute >= UMAD_CM_ATTR_REQ && attribute <= UMAD_CM_ATTR_APR;
}

// Service ids 0x0000'0000'01PP'nnnn: IP protocol PP, port nnnn.
bool is_ip_service(uint64_t service_id)
{
    return service_id >> 24 == 1;
}

std::optional<ibv_gid> ip_destination(std::span<const std::byte> private_data)
{
    ibv_gid gid{};
    auto address = private_data.subspan(ip_destination_at, sizeof(gid.raw));
    switch (std::to_integer<uint8_t>(private_data[ip_version_at]) >> 4) {
    case 4:
        gid.raw[10] = gid.raw[11] = 0xff;
        std::memcpy(gid.raw + v4_in_address_at, address.data() + v4_in_address_at, 4);
        return gid;
    case 6:
        std::memcpy(gid.raw, address.data(), sizeof(gid.raw));
        return gid;
    default:
        return std::nullopt;
    }
}

} // namespace

std::optional<CmMessage> parse_cm_message(std::span<const std::byte> mad)
{
    if (mad.size() < mad_size || mad[base_version_at] != std::byte{base_version} ||
        mad[class_at] != std::byte{UMAD_CLASS_CM} ||
        mad[class_version_at] != std::byte{cm_class_version} ||
        mad[method_at] != std::byte{UMAD_METHOD_SEND}) {
        return std::nullopt;
    }
    auto attribute = big_endian_at<uint16_t>(mad, attribute_at);
    if (!is_known(attribute)) {
        return std::nullopt;
    }
    auto data = mad.subspan(data_at);
    auto first = big_endian_at<uint32_t>(data, first_id_at);
    CmMessage message{static_cast<CmKind>(attribute), first, 0, std::nullopt};
    if (message.kind == CmKind::sidr_rep) {
        message.sender_id = 0;
        message.receiver_id = first;
    } else if (!message.is_request()) {
        message.receiver_id = big_endian_at<uint32_t>(data, second_id_at);
    } else if (is_ip_service(big_endian_at<uint64_t>(data, service_id_at))) {
        message.ip_destination = ip_destination(
            data.subspan(message.kind == CmKind::req ? req_private_at : sidr_req_private_at));
    }
    return message;
}

} // namespace rdma::verbs
