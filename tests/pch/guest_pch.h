// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the files of the guests' programs include, compiled once for each program.
#include <fmt/format.h>

#include <infiniband/verbs.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>
