/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HW_PVRDMA_PCI_H
#define HW_PVRDMA_PCI_H

#include "qom/object.h"

extern const TypeInfo pvrdma_type;

#endif
