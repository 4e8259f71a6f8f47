/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_STAND_IN_OBJECT_H
#define QEMU_STAND_IN_OBJECT_H

#include <stdint.h>

typedef struct Object {
    int references; /* under the big lock */
} Object;

static inline void object_ref(Object *object)
{
    object->references++;
}

static inline void object_unref(Object *object)
{
    object->references--;
}

#endif
