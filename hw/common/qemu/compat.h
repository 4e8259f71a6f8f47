/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs between QEMU's versions. Built and tested: 10.0. What is here for others
 * follows their public headers.
 */
#ifndef HW_RDMA_COMPAT_H
#define HW_RDMA_COMPAT_H

#if __has_include("system/runstate.h")
#include "system/runstate.h"
#include "system/tcg.h"
#else /* before 10.0 */
#include "sysemu/runstate.h"
#include "sysemu/tcg.h"
#endif

#if __has_include("system/memory.h")
#include "system/address-spaces.h"
#include "system/memory.h"
#include "system/ramblock.h"
#else /* before 10.1 */
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#endif

/* Part of memory.h in earlier versions. */
#if __has_include("system/memory_cached.h")
#include "system/memory_cached.h"
#endif

#if __has_include("hw/core/qdev-properties.h")
#include "hw/core/qdev-properties.h"
#else /* earlier versions */
#include "hw/qdev-properties.h"
#endif

/* What class_init functions are given: constant since 10.1. */
#if QEMU_VERSION_MAJOR > 10 || (QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR >= 1)
typedef const void RdmaClassData;
#else
typedef void RdmaClassData;
#endif

/* Lists of properties have their end in them until 10.0. */
#if QEMU_VERSION_MAJOR < 10
#define RDMA_PROPERTIES_END DEFINE_PROP_END_OF_LIST(),
#else
#define RDMA_PROPERTIES_END
#endif

#endif
