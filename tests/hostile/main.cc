// SPDX-License-Identifier: GPL-2.0-or-later
//
// rdma-hostile: attacks an RDMA device from within a test guest.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>

#include "attacks.h"

int main(int argc, char** argv)
{
    CLI::App app("Attacks an RDMA device until a file appears");
    hostile::Options options;
    app.add_option("--until", options.until, "File that ends the attack; without it, it does not end");
    app.add_option("--seed", options.seed, "What the attack is made from");
    app.require_subcommand(1);
    auto* device = app.add_subcommand("device", "As the guest's kernel, on a PCI function");
    device->add_option("address", options.device, "e.g. 0000:00:06.1")->required();
    auto* sends = app.add_subcommand("sends", "As the guest's kernel, from within sends");
    hostile::SendOptions send;
    sends->add_option("address", options.device, "e.g. 0000:00:06.1")->required();
    sends->add_option("--card", send.card, "e.g. 0000:00:05.0")->required();
    sends->add_option("--target", send.target, "Address that the interrupt is written to")->required();
    sends->add_option("--value", send.value, "The word that is written")->required();
    sends->add_option("--mac", send.mac, "Of the destination")->required();
    sends->add_option("--source", send.source, "IPv4 address")->required();
    sends->add_option("--destination", send.destination, "IPv4 address")->required();
    sends->add_option("--hop-limit", send.hop_limit, "Of the datagrams");
    sends->add_option("--rounds", send.rounds, "Datagrams");
    auto* process = app.add_subcommand("process", "As a process, on its own queues");
    process->add_option("name", options.device, "e.g. vmw_pvrdma0")->required();
    process->add_option("--gid", options.gid_index, "Index of the GID to use")->required();
    auto* unmap = app.add_subcommand("unmap", "As the guest's kernel behind an IOMMU: a mapping goes in mid-traffic");
    unmap->add_option("address", options.device, "e.g. 0000:00:05.1, with vfio-pci as driver")->required();
    CLI11_PARSE(app, argc, argv);
    try {
        if (*device) {
            hostile::attack_device(options);
        } else if (*sends) {
            hostile::attack_from_sends(options, send);
        } else if (*unmap) {
            hostile::take_mapping_away(options.device);
        } else {
            hostile::attack_from_process(options);
        }
        return 0;
    } catch (const std::exception& e) {
        fmt::print(stderr, "rdma-hostile: {}\n", e.what());
        return 1;
    }
}
