/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every RDMA function is to QEMU: the C++ core with its backend, on the network of the
 * card in function 0, in the machine's memory; run state, migration, statistics and the
 * properties that do not depend on the kind of device. A kind embeds an RdmaCore in its
 * state and adds what its guests see.
 */
#ifndef HW_RDMA_CORE_H
#define HW_RDMA_CORE_H

#include "hw/pci/pci_device.h"
#include "migration/misc.h"
#include "migration/vmstate.h"
#include "qemu/notify.h"
#include "compat.h"
#include "rdma_backend.h"
#include "rdma_device.h"
#include "rdma_memory.h"
#include "rdma_nic.h"
#include "rdma_pause.h"

typedef struct RdmaCore RdmaCore;

/* What the kind of device gives. */
typedef struct RdmaCoreOps {
    const char *name; /* in messages, and of the state */
    /* Makes the device; on errors returns NULL and sets *message (free() it). */
    RdmaDevice *(*create)(RdmaCore *core, const RdmaBackendConfig *backend,
                          const RdmaHostOps *host, void *opaque, char **message);
    /* See RdmaHostOps. */
    void (*raise_irq)(RdmaCore *core, unsigned vector);
    void (*set_intx)(RdmaCore *core, bool level);
    /* The carrier of the card may have changed, which the device has been told. May be NULL. */
    void (*link_changed)(RdmaCore *core);
    /* The configuration alone, with VMSTATE_RDMA_CONFIG(). */
    const VMStateDescription *config_vmsd;
} RdmaCoreOps;

struct RdmaCore {
    /* The function; set from rdma_core_realize() to rdma_core_unrealize(), as is all but
     * the properties. */
    PCIDevice *pci_dev;
    const RdmaCoreOps *ops;
    RdmaDevice *device;
    RdmaMemory memory;
    RdmaNic nic;
    RdmaPause pause;
    QEMUTimer *timer;
    VMChangeStateEntry *run_state;
    NotifierWithReturn migration_notifier;
    NotifierWithReturn precopy_notifier;

    /* Properties */
    char *backend;
    char *ibdev;
    uint32_t ibport;
    int32_t gid_index;
    char *gid_policy;
    char *gid_allow;
    char *odp;
    uint16_t peer_port;
    char *on_migrate;
    char *cm_mux;
    uint32_t poll_pause_us;
    bool stopped_rnr_nak;
};

/*
 * The properties of every kind, from which all lists of them are made:
 *   X(kind, "name", member, default, "description", further arguments of the list)
 */
#define RDMA_CORE_PROPERTIES(X, ...) \
    X(STRING, "backend", backend, "roce", \
      "roce (a RoCEv2 engine of our own) or verbs (a host's RDMA device)", __VA_ARGS__) \
    X(STRING, "ibdev", ibdev, NULL, \
      "backend=verbs: the host's RDMA device", __VA_ARGS__) \
    X(UINT32, "ibport", ibport, 1, \
      "backend=verbs: its port, from 1", __VA_ARGS__) \
    X(INT32, "gid-index", gid_index, -1, \
      "backend=verbs: the GID of the port that all packets come from; negative: the " \
      "guest's own", __VA_ARGS__) \
    X(STRING, "gid-policy", gid_policy, "match", \
      "backend=verbs: match (the port has the guest's addresses) or add (they are put " \
      "on the host's interface)", __VA_ARGS__) \
    X(STRING, "gid-allow", gid_allow, NULL, \
      "backend=verbs: addresses that the guest may use, ADDRESS[/BITS][+...]", __VA_ARGS__) \
    X(STRING, "odp", odp, "auto", \
      "backend=verbs: on-demand paging: auto, on or off", __VA_ARGS__) \
    X(UINT16, "peer-port", peer_port, 4793, \
      "backend=verbs: TCP port of the control channel between devices; 0: none", __VA_ARGS__) \
    X(STRING, "on-migrate", on_migrate, "refuse", \
      "backend=verbs: refuse, or error (QPs that cannot come along go to the error " \
      "state)", __VA_ARGS__) \
    X(STRING, "cm-mux", cm_mux, NULL, \
      "backend=verbs: socket of rdmacm-mux, or off (umad)", __VA_ARGS__) \
    X(UINT32, "poll-pause", poll_pause_us, 50, \
      "longest wait of a vCPU that polls an empty CQ in a loop, 0 to 1000 microseconds; " \
      "0: none", __VA_ARGS__) \
    X(BOOL, "stopped-rnr-nak", stopped_rnr_nak, true, \
      "whether peers are answered with RNR NAK while the VM is stopped", __VA_ARGS__)

/* In a list of properties: those of _state's member _core. */
#define DEFINE_RDMA_CORE_PROPERTIES(_state, _core) \
    RDMA_CORE_PROPERTIES(RDMA_CORE_PROPERTY, _state, _core)
#define RDMA_CORE_PROPERTY(_kind, _name, _member, _default, _description, _state, _core) \
    RDMA_CORE_PROPERTY_##_kind(_name, _state, _core._member, _default),
#define RDMA_CORE_PROPERTY_BOOL DEFINE_PROP_BOOL
#define RDMA_CORE_PROPERTY_UINT16 DEFINE_PROP_UINT16
#define RDMA_CORE_PROPERTY_UINT32 DEFINE_PROP_UINT32
#define RDMA_CORE_PROPERTY_INT32 DEFINE_PROP_INT32
/* Without a default: rdma_core_default_properties(). */
#define RDMA_CORE_PROPERTY_STRING(_name, _state, _field, _default) \
    DEFINE_PROP_STRING(_name, _state, _field)

/* In class_init: for -device NAME,help. */
void rdma_core_describe_properties(ObjectClass *klass);
/* The same of a property that is a number. */
void rdma_core_describe_number(ObjectClass *klass, const char *name, uint64_t least,
                               uint64_t most, bool power_of_two, const char *description);
/* In instance_post_init: strings that were not given. */
void rdma_core_default_properties(RdmaCore *core);

/* Checks the properties, creates the device and puts it on the card's network. */
bool rdma_core_realize(RdmaCore *core, PCIDevice *pci_dev, const RdmaCoreOps *ops, Error **errp);
/* The function is complete: from now on it sees memory and takes part in migration. */
void rdma_core_start(RdmaCore *core);
/* Also where rdma_core_start() has not been called. */
void rdma_core_unrealize(RdmaCore *core);

/* The getter of the property "stats". */
void rdma_core_get_stats(RdmaCore *core, Visitor *v, const char *name, Error **errp);
#define RDMA_CORE_STATS_DESCRIPTION \
    "Counters of packets, errors and drops since the device was created, and the objects " \
    "that exist now"

/* The index of a property's value in a list that ends with NULL. */
bool rdma_core_choose(const char *property, const char *value, const char *const *choices,
                      int *index, Error **errp);

/*
 * Fields of a VMState description: the whole device, and its configuration alone. The
 * description has version 2 and takes 1, whose length has 32 bits.
 */
extern const VMStateInfo rdma_core_state_info, rdma_core_config_info;
bool rdma_core_is_v1(void *opaque, int version_id);
bool rdma_core_is_v2(void *opaque, int version_id);

#define VMSTATE_RDMA_FIELD_(_offset, _info, _version) { \
    .name = "state", \
    .info = &(_info), \
    .version_id = (_version), \
    .flags = VMS_SINGLE, \
    .offset = (_offset), \
    .field_exists = rdma_core_is_v##_version, \
}
#define VMSTATE_RDMA_FIELDS_(_offset, _info) \
    VMSTATE_RDMA_FIELD_(_offset, _info, 2), VMSTATE_RDMA_FIELD_(_offset, _info, 1)
#define VMSTATE_RDMA_CORE(_core, _state) \
    VMSTATE_RDMA_FIELDS_(offsetof(_state, _core), rdma_core_state_info)
/* Of a description whose state is the RdmaCore. */
#define VMSTATE_RDMA_CONFIG() VMSTATE_RDMA_FIELDS_(0, rdma_core_config_info)

#endif
