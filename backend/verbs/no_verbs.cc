// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdexcept>

#include "runner.h"

namespace rdma::verbs {

std::unique_ptr<OpenedBackend> open(const RdmaBackendConfig&)
{
    throw std::runtime_error("'backend' is verbs: this build has no verbs backend; configure with "
                             "-Dverbs=enabled, which needs libibverbs-dev and libibumad-dev");
}

} // namespace rdma::verbs
