/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * As much of QEMU as rdma_pause.c asks for, so that its threads can be watched
 * without QEMU: the big lock, the queue of work for a vCPU, atomics.
 */
#ifndef QEMU_STAND_IN_OSDEP_H
#define QEMU_STAND_IN_OSDEP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CONFIG_LINUX 1
#define g_new(type, count) ((type *)calloc((count), sizeof(type)))
#define g_autofree __attribute__((cleanup(stand_in_free)))

static inline void stand_in_free(void *pointer)
{
    free(*(void **)pointer);
}

#endif
