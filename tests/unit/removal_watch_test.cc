// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the kernel's uevents say of an RDMA device.
#include <string>

#include <gtest/gtest.h>

#include "removal_watch.h"

namespace rdma::verbs {
namespace {

std::string uevent(const std::string& action, const std::string& path, const std::string& subsystem)
{
    std::string message;
    for (const std::string& field :
         {action + "@" + path, "ACTION=" + action, "DEVPATH=" + path, "SUBSYSTEM=" + subsystem,
          std::string("MAJOR=231"), std::string("SEQNUM=1234")}) {
        message += field;
        message += '\0';
    }
    return message;
}

const std::string path = "/devices/virtual/infiniband_verbs/uverbs1";

TEST(RemovalWatch, removal_of_the_device_is_seen)
{
    EXPECT_TRUE(RemovalWatch::is_removal(uevent("remove", path, "infiniband_verbs"), "uverbs1"));
}

TEST(RemovalWatch, other_devices_are_others)
{
    EXPECT_FALSE(RemovalWatch::is_removal(uevent("remove", path, "infiniband_verbs"), "uverbs"));
    EXPECT_FALSE(
        RemovalWatch::is_removal(uevent("remove", path + "1", "infiniband_verbs"), "uverbs1"));
    EXPECT_FALSE(
        RemovalWatch::is_removal(uevent("remove", path + "/x", "infiniband_verbs"), "uverbs1"));
    EXPECT_FALSE(RemovalWatch::is_removal(uevent("remove", path, "net"), "uverbs1"));
}

TEST(RemovalWatch, what_is_added_or_changed_is_not_removed)
{
    EXPECT_FALSE(RemovalWatch::is_removal(uevent("add", path, "infiniband_verbs"), "uverbs1"));
    EXPECT_FALSE(RemovalWatch::is_removal(uevent("change", path, "infiniband_verbs"), "uverbs1"));
}

TEST(RemovalWatch, messages_that_end_early_are_taken)
{
    std::string message = uevent("remove", path, "infiniband_verbs");
    for (size_t size = 0; size < message.size(); ++size) {
        RemovalWatch::is_removal(std::string_view(message).substr(0, size), "uverbs1");
    }
    EXPECT_FALSE(RemovalWatch::is_removal("", "uverbs1"));
    EXPECT_FALSE(RemovalWatch::is_removal({"\0\0", 2}, "uverbs1"));
}

TEST(RemovalWatch, nothing_told_is_nothing_removed)
{
    RemovalWatch watch("uverbs1");
    EXPECT_FALSE(watch.take());
}

} // namespace
} // namespace rdma::verbs
