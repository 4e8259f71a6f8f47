// SPDX-License-Identifier: GPL-2.0-or-later
//
// backend-suite [gtest's options] [ROCE DEVICE OF THE HOST [ANOTHER]]
// Without a device, the suite runs on the engine.
#include "backend_test.h"

namespace rdma::test {
namespace {

BackendKind kind{"roce", make_roce_pair};
std::vector<std::string> devices;

} // namespace

std::vector<BackendKind> kinds_under_test()
{
    return {kind};
}

std::vector<BackendKind> host_kinds()
{
    return devices.empty() ? std::vector<BackendKind>{} : kinds_under_test();
}

std::vector<std::string> devices_under_test()
{
    return devices.empty() ? devices : std::vector{devices.front()};
}

std::string peer_device()
{
    return devices.back();
}

INSTANTIATE_TEST_SUITE_P(Backend, BackendTest, testing::ValuesIn(kinds_under_test()), name_of);

} // namespace rdma::test

int main(int argc, char** argv)
{
    // Before gtest, which makes the tests' list once.
    auto& devices = rdma::test::devices;
    for (int i = 1; i < argc; ++i) {
        if (argv[i][0] != '-') {
            devices.emplace_back(argv[i]);
        }
    }
    if (!devices.empty()) {
#ifdef WITH_VERBS
        rdma::test::kind = {"verbs", [] {
                                return rdma::test::make_verbs_pair(rdma::test::devices.front(),
                                                                   rdma::test::devices.back());
                            }};
#else
        fprintf(stderr, "built without the verbs backend\n");
        return 2;
#endif
    }
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
