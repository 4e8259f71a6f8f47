// SPDX-License-Identifier: GPL-2.0-or-later
//
// A test program that does what MISBEHAVE says, so that test_runner.py can see
// what is made of it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace {

std::string how()
{
    const char* word = std::getenv("MISBEHAVE");
    return word ? word : "";
}

void* volatile leaked = nullptr;

TEST(Misbehaving, does_as_told)
{
    if (how() == "leak") {
        leaked = std::malloc(64);
        leaked = nullptr;
    } else if (how() == "hang") {
        for (;;) {
            pause();
        }
    } else if (how() == "crash") {
        std::abort();
    } else if (how() == "leave") {
        std::_Exit(0);
    } else if (how() == "end badly") {
        std::atexit([] { std::_Exit(3); });
    }
    EXPECT_NE(how(), "fail");
}

TEST(Misbehaving, goes_on)
{
    if (how() == "skip") {
        GTEST_SKIP() << "as told";
    }
}

} // namespace
