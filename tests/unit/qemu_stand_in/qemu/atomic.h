/* SPDX-License-Identifier: GPL-2.0-or-later */
/* With the orderings of QEMU's include/qemu/atomic.h. */
#ifndef QEMU_STAND_IN_ATOMIC_H
#define QEMU_STAND_IN_ATOMIC_H

#define qatomic_read(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define qatomic_inc(p) ((void)__atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST))
#define qatomic_dec(p) ((void)__atomic_fetch_sub(p, 1, __ATOMIC_SEQ_CST))

#endif
