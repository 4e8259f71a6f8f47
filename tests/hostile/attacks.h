// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a hostile guest, and a hostile process in an honest guest, do to a
// device. Both go on until a file of the given name appears; what they do is
// made from the seed.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>

namespace hostile {

struct Options {
    std::string device; // PCI address, or name of the RDMA device
    std::string until;  // file
    uint64_t seed = 1;
    int gid_index = 0; // for a process
};

// How a datagram leads back into the device that sends it.
struct SendOptions {
    std::string card;        // PCI address of the card that raises an interrupt for it
    uint64_t target = 0;     // where the interrupt is written, guest-physical
    uint32_t value = 0;      // and what
    std::string mac;         // of the datagram's destination
    std::string source;      // IPv4 addresses
    std::string destination;
    uint8_t hop_limit = 64;
    unsigned rounds = 100;
};

// The guest's kernel, or who has taken it: drives the PCI function, which no
// driver is bound to, through sysfs. Writes over the registers, the shared
// region, command slots, rings, page directories and the MSI-X table. Only
// memory of its own is given to the device, so that the guest survives.
void attack_device(const Options& options);

// The same, with the device brought up and used as it should be; the network answers, or
// delivers, a datagram within its send, and the interrupt of the card that gets that is
// written into a register that resets, unplugs or stops the device. Prints in how many of the
// rounds the device had lost its bus mastering when the send was done.
void attack_from_sends(const Options& options, const SendOptions& send);

// The guest's kernel behind an IOMMU, on a PCI function that vfio-pci is bound to: takes the mapping
// of a memory region away while requests use it. Throws where that ends in anything but an error of
// such a request.
void take_mapping_away(const std::string& device);

// A process: writes over its doorbell page and over the queues that its library
// shares with the device.
void attack_from_process(const Options& options);

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline bool stopped(const Options& options)
{
    struct stat status;
    return stat(options.until.c_str(), &status) == 0;
}

using Random = std::mt19937_64;

// Bits of every magnitude, and what is near to 0 and to the end.
inline uint32_t awkward(Random& random)
{
    auto word = static_cast<uint32_t>(random());
    switch (random() % 4) {
    case 0:
        return word;
    case 1:
        return word >> random() % 32;
    case 2:
        return 1u << word % 32;
    default:
        return ~(word & 0xff);
    }
}

} // namespace hostile
