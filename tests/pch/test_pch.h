// SPDX-License-Identifier: GPL-2.0-or-later
//
// What nearly all tests include, compiled once for each program.
#include <gtest/gtest.h>

#include <infiniband/verbs.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>
