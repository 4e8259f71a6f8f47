// SPDX-License-Identifier: GPL-2.0-or-later
//
// backend-suite [gtest's options] [ROCE DEVICE OF THE HOST [ANOTHER]]
// Without a device, the suite runs on the engine.
#include "backend_test.h"

namespace rdma::test {
namespace {

BackendKind kind{"roce", make_roce_pair};

} // namespace

std::vector<BackendKind> kinds_under_test()
{
    return {kind};
}

INSTANTIATE_TEST_SUITE_P(Backend, BackendTest, testing::ValuesIn(kinds_under_test()), name_of);

} // namespace rdma::test

int main(int argc, char** argv)
{
    // Before gtest, which makes the tests' list once.
    std::vector<std::string> devices;
    for (int i = 1; i < argc; ++i) {
        if (argv[i][0] != '-') {
            devices.emplace_back(argv[i]);
        }
    }
    if (!devices.empty()) {
#ifdef WITH_VERBS
        rdma::test::kind = {"verbs", [devices] {
                                return rdma::test::make_verbs_pair(devices.front(), devices.back());
                            }};
#else
        fprintf(stderr, "built without the verbs backend\n");
        return 2;
#endif
    }
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
