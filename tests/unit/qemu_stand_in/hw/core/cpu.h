/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_STAND_IN_CPU_H
#define QEMU_STAND_IN_CPU_H

typedef struct CPUState CPUState;
typedef union run_on_cpu_data {
    void *host_ptr;
} run_on_cpu_data;
#define RUN_ON_CPU_HOST_PTR(p) ((run_on_cpu_data) { .host_ptr = (p) })

/* Of this thread; NULL: it is no vCPU's. */
extern __thread CPUState *current_cpu;

/* The test runs func with the big lock held, once the vCPU is out of its MMIO. */
void async_run_on_cpu(CPUState *cpu, void (*func)(CPUState *, run_on_cpu_data),
                      run_on_cpu_data data);

#endif
