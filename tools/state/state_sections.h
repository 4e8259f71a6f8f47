// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every section of a state stream by its kind, for whoever has no device: the
// printer and the list of layouts.
#pragma once

#include "shared_state_fields.h"
#include "backend/roce/state_fields.h"
#include "backend/verbs/state_fields.h"
#include "hw/pvrdma/state_fields.h"
#include "hw/virtio-rdma/state_fields.h"

namespace rdma {

// Describes a section of that kind to the archive. False: there is none.
template <typename Archive>
bool describe_section(Archive& a, migration::SectionKind kind)
{
    using migration::SectionKind;
    uint32_t id = 0;
    int64_t remaining = 0;
    auto whole = [&](auto object) { describe(a, object); };
    auto numbered = [&](auto object) { describe(a, id, object); };
    switch (kind) {
    case SectionKind::config:
        whole(ConfigState{});
        return true;
    case SectionKind::statistics:
        whole(std::vector<Counter>{});
        return true;
    case SectionKind::roce_port:
        whole(roce::PortState{});
        return true;
    case SectionKind::roce_gid:
        numbered(roce::GidTable::Entry{});
        return true;
    case SectionKind::roce_pd:
    case SectionKind::roce_cq:
        a.u32("id", id);
        return true;
    case SectionKind::roce_mr: {
        roce::MemoryRegion mr{};
        describe(a, id, mr, max_pages_registered);
        return true;
    }
    case SectionKind::roce_srq:
        numbered(roce::Srq{});
        return true;
    case SectionKind::roce_qp: {
        roce::QueuePair qp;
        describe(a, qp, remaining);
        return true;
    }
    case SectionKind::roce_inline:
        whole(roce::InlineState{});
        return true;
    case SectionKind::roce_numbers:
        whole(roce::NumberState{});
        return true;
    case SectionKind::roce_overrun:
        a.u32("cq", id);
        return true;
    case SectionKind::verbs_gid:
        whole(verbs::GidState{});
        return true;
    case SectionKind::verbs_pd:
        a.u32("id", id);
        return true;
    case SectionKind::verbs_mr:
        whole(verbs::MrState{});
        return true;
    case SectionKind::verbs_cq:
        whole(verbs::CqState{});
        return true;
    case SectionKind::verbs_srq:
        whole(verbs::SrqState{});
        return true;
    case SectionKind::verbs_qp:
        whole(verbs::QpState{});
        return true;
    case SectionKind::pvrdma_device:
        whole(pvrdma::DeviceState{});
        return true;
    case SectionKind::pvrdma_cq:
        numbered(PvrdmaDevice::Cq{});
        return true;
    case SectionKind::pvrdma_srq:
        numbered(PvrdmaDevice::Srq{});
        return true;
    case SectionKind::pvrdma_qp:
        numbered(PvrdmaDevice::Qp{});
        return true;
    case SectionKind::virtio_rdma_device:
        whole(VirtioRdmaDevice::DeviceState{});
        return true;
    case SectionKind::virtio_rdma_pd:
        numbered(VirtioRdmaDevice::Pd{});
        return true;
    case SectionKind::virtio_rdma_mr:
        numbered(VirtioRdmaDevice::Mr{});
        return true;
    case SectionKind::virtio_rdma_cq:
        numbered(VirtioRdmaDevice::Cq{});
        return true;
    case SectionKind::virtio_rdma_srq:
        numbered(VirtioRdmaDevice::Srq{});
        return true;
    case SectionKind::virtio_rdma_qp:
        numbered(VirtioRdmaDevice::Qp{});
        return true;
    case SectionKind::end:
        break;
    }
    return false;
}

} // namespace rdma
