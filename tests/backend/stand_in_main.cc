// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tests of the suite that need RDMA devices of a host, on the stand-in for them.
#include "backend_test.h"
#include "stand_in_host.h"

namespace rdma::test {

std::vector<std::string> all_devices()
{
    return {"alpha", "beta"};
}

} // namespace rdma::test

int main(int argc, char** argv)
{
    rdma::test::StandInHost host;
    host.add_device("alpha", {rdma::test::gid_of("127.0.2.1")});
    host.add_device("beta", {rdma::test::gid_of("127.0.2.2")});
    // These drop packets, of which there are none here.
    GTEST_FLAG_SET(filter, "-*Unacknowledged*");
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
