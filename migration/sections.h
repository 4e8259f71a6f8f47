// SPDX-License-Identifier: GPL-2.0-or-later
//
// All sections that a state stream can have.
//
// A field that a version adds is described within since(version, ...) (archive.h), at the end
// of the section, and the section's version here is raised by one.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace rdma::migration {

// X(identifier, number, version, "name"). Numbers: 1 to 15 of every device, 16 to 63 of a
// backend, from 64 on of a kind of device. They are not used again.
#define RDMA_SECTIONS(X)                                                                           \
    X(config, 1, 1, "config")                                                                      \
    X(statistics, 2, 1, "statistics")                                                              \
    X(roce_port, 16, 1, "roce-port")                                                               \
    X(roce_gid, 17, 1, "roce-gid")                                                                 \
    X(roce_pd, 18, 1, "roce-pd")                                                                   \
    X(roce_mr, 19, 1, "roce-mr")                                                                   \
    X(roce_cq, 20, 1, "roce-cq")                                                                   \
    X(roce_srq, 21, 1, "roce-srq")                                                                 \
    X(roce_qp, 22, 1, "roce-qp")                                                                   \
    X(roce_numbers, 23, 1, "roce-numbers")                                                         \
    X(roce_overrun, 24, 1, "roce-overrun")                                                         \
    X(roce_inline, 25, 1, "roce-inline")                                                           \
    X(verbs_gid, 32, 1, "verbs-gid")                                                               \
    X(verbs_pd, 33, 1, "verbs-pd")                                                                 \
    X(verbs_mr, 34, 1, "verbs-mr")                                                                 \
    X(verbs_cq, 35, 1, "verbs-cq")                                                                 \
    X(verbs_srq, 36, 1, "verbs-srq")                                                               \
    X(verbs_qp, 37, 1, "verbs-qp")                                                                 \
    X(pvrdma_device, 64, 1, "pvrdma-device")                                                       \
    X(pvrdma_cq, 65, 1, "pvrdma-cq")                                                               \
    X(pvrdma_srq, 66, 1, "pvrdma-srq")                                                             \
    X(pvrdma_qp, 67, 1, "pvrdma-qp")                                                               \
    X(virtio_rdma_device, 80, 1, "virtio-rdma-device")                                             \
    X(virtio_rdma_pd, 81, 1, "virtio-rdma-pd")                                                     \
    X(virtio_rdma_mr, 82, 1, "virtio-rdma-mr")                                                     \
    X(virtio_rdma_cq, 83, 1, "virtio-rdma-cq")                                                     \
    X(virtio_rdma_srq, 84, 1, "virtio-rdma-srq")                                                   \
    X(virtio_rdma_qp, 85, 1, "virtio-rdma-qp")

enum class SectionKind : uint16_t {
#define X(identifier, number, version, name) identifier = number,
    RDMA_SECTIONS(X)
#undef X
    end = 0xffff, // the stream's own
};

struct SectionType {
    SectionKind kind;
    uint16_t version; // the newest: what is written; older ones are read
    std::string_view name;
};
inline constexpr SectionType section_types[] = {
#define X(identifier, number, version, name) {SectionKind::identifier, version, name},
    RDMA_SECTIONS(X)
#undef X
};

// Null where there is no such kind.
constexpr const SectionType* find_section_type(SectionKind kind)
{
    for (const SectionType& type : section_types) {
        if (type.kind == kind) {
            return &type;
        }
    }
    return nullptr;
}

// Whether a section is the backend's.
constexpr bool is_of_backend(SectionKind kind)
{
    return static_cast<uint16_t>(kind) >= 16 && static_cast<uint16_t>(kind) < 64;
}

} // namespace rdma::migration
