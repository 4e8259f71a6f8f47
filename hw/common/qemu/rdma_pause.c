/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#ifdef CONFIG_LINUX
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#include "qemu/atomic.h"
#include "qemu/main-loop.h"
#include "hw/core/cpu.h"
#include "rdma_pause.h"

#ifdef CONFIG_LINUX

typedef struct RdmaPauseRequest {
    RdmaPause *pause;
    uint32_t seen; /* news when the poll found nothing */
} RdmaPauseRequest;

/* In the vCPU's thread, between two stretches of guest code. */
static void rdma_pause_run(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree RdmaPauseRequest *request = data.host_ptr;
    RdmaPause *pause = request->pause;
    Object *owner = pause->owner;
    struct timespec timeout = { .tv_nsec = pause->max_ns };

    qatomic_inc(&pause->waiting);
    bql_unlock();
    syscall(__NR_futex, &pause->news, FUTEX_WAIT_PRIVATE, request->seen,
            &timeout, NULL, 0);
    bql_lock();
    qatomic_dec(&pause->waiting);
    object_unref(owner);
}

/*
 * The wait itself cannot be part of the MMIO: with the big lock released
 * there, QEMU refuses another vCPU's access to the same device.
 */
void rdma_pause_vcpu(RdmaPause *pause)
{
    RdmaPauseRequest *request;

    if (pause->max_ns == 0 || !current_cpu) {
        return;
    }
    request = g_new(RdmaPauseRequest, 1);
    request->pause = pause;
    request->seen = qatomic_read(&pause->news);
    object_ref(pause->owner);
    async_run_on_cpu(current_cpu, rdma_pause_run,
                     RUN_ON_CPU_HOST_PTR(request));
}

void rdma_pause_end(RdmaPause *pause)
{
    qatomic_inc(&pause->news);
    if (qatomic_read(&pause->waiting) > 0) {
        syscall(__NR_futex, &pause->news, FUTEX_WAKE_PRIVATE, INT_MAX, NULL,
                NULL, 0);
    }
}

#else

void rdma_pause_vcpu(RdmaPause *pause)
{
}

void rdma_pause_end(RdmaPause *pause)
{
}

#endif
