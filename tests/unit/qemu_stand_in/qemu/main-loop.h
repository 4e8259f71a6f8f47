/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_STAND_IN_MAIN_LOOP_H
#define QEMU_STAND_IN_MAIN_LOOP_H

/* The test has the lock. */
void bql_lock(void);
void bql_unlock(void);

#endif
