# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots guests with the built QEMU and runs commands in them."""
