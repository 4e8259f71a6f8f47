# SPDX-License-Identifier: GPL-2.0-or-later
"""What a QEMU has allocated for itself."""
import pathlib
import re


def shared_ram(size):
    """QEMU's arguments for guest RAM in a memory file, which own_memory() tells apart."""
    return ["-object", f"memory-backend-memfd,id=ram,size={size},share=on",
            "-machine", "memory-backend=ram"]


def own_memory(pid):
    """Bytes of a process in anonymous memory, without what can be executed.

    Of a QEMU with shared_ram() that is its heap and stacks: without guest RAM, and without the code that
    TCG has translated.
    """
    total = 0
    counted = False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \S+ *(.*)", line):
            counted = "x" not in mapping[1] and not mapping[2].startswith("/memfd:")
        elif counted and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total
