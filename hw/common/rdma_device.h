/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one header a hypervisor sees: an RDMA device as a C object.
 *
 * The host (QEMU's glue, or a test) owns threads, clocks, sockets and
 * interrupts and lends them to the device through RdmaHostOps. The device
 * owns registers, rings, queue pairs and the RoCEv2 engine.
 *
 * Locking: one thread at a time. Every function below is called with the host's
 * device lock held (in QEMU: the big lock), and every callback runs under it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Where the device runs out of the host's memory or threads in a call, that call fails, and
 * with it the device: it says so through log, its guest gets IBV_EVENT_DEVICE_FATAL, and all
 * its objects are gone until the driver sets it up anew.
 */
typedef struct RdmaDevice RdmaDevice;

/* BARs of the PVRDMA function (BAR 0, MSI-X, stays with the hypervisor). */
enum {
    RDMA_BAR_REGS = 1, /* registers, RDMA_REGS_BAR_SIZE bytes, 32-bit accesses */
    RDMA_BAR_UAR = 2,  /* doorbell pages, max_uar * 4096 bytes, 32-bit accesses */
};

#define RDMA_REGS_BAR_SIZE 4096u
#define RDMA_UAR_PAGE_SIZE 4096u
#define RDMA_OBSERVED_BYTES 96u

/* One contiguous piece of guest RAM or ROM. Regions do not overlap. */
typedef struct RdmaMemoryRegion {
    uint64_t gpa;  /* guest-physical address, as the device's DMA sees it but for translation */
    uint64_t size; /* bytes, > 0 */
    void *hva;     /* where the host has it mapped */
    bool readonly; /* device writes are refused */
    /* Whether it is a shared mapping of a file, which another mapping of the file
     * sees too, and which one: a descriptor that stays open as long as the
     * region is in the table, and where the region begins, bytes. */
    bool shared;
    int fd;
    uint64_t fd_offset;
} RdmaMemoryRegion;

/* What the network card in function 0 is just now. */
typedef struct RdmaNicInfo {
    uint8_t mac[6];  /* the address the guest has given it */
    uint32_t mtu;    /* bytes of an IP packet, 0 if not known */
    bool link_up;    /* carrier */
} RdmaNicInfo;

enum { RDMA_LOG_ERROR, RDMA_LOG_WARNING, RDMA_LOG_GUEST_ERROR, RDMA_LOG_TRACE };

/*
 * What the host lends to the device. No callback may be NULL. raise_irq and
 * send_packet may lead back to any function below but save and load: a guest can have an
 * MSI message written to any address, and a network that delivers within its send has
 * another card of the guest raise one. What comes within a call does this:
 *  - accesses to the device's BARs are ignored;
 *  - a packet that comes within send_packet is queued;
 *  - memory, dirty log, stop and start take effect at once;
 *  - after reset and destroy the device neither reads nor writes guest memory, sends
 *    nothing and raises no interrupt; what is left of it goes at the end of the outermost
 *    call. After destroy there is no callback any more: what opaque points to may be freed.
 * tx_ready must not come before the send_packet that it belongs to has returned.
 * All other callbacks must not call back into the device.
 */
typedef struct RdmaHostOps {
    /* Monotonic time in nanoseconds that stands still while the VM is
     * stopped. */
    int64_t (*now)(void *opaque);
    /* Call rdma_device_timer() at this time (same clock as now);
     * INT64_MAX: never. Replaces the earlier deadline. */
    void (*set_timer)(void *opaque, int64_t deadline_ns);
    /* Put one Ethernet frame (no FCS) on the network. True: more may follow.
     * False: the frame is accepted (queued), but send nothing more before
     * rdma_device_tx_ready(). */
    bool (*send_packet)(void *opaque, const uint8_t *frame, size_t size);
    /* Raise interrupt vector (0 response, 1 async event, 2 completion) when
     * MSI-X or MSI is on; with INTx, nothing (set_intx drives the pin). */
    void (*raise_irq)(void *opaque, unsigned vector);
    /* Level of the INTx pin; ignored by the host when MSI or MSI-X is on. */
    void (*set_intx)(void *opaque, bool level);
    /* The device has written guest memory [gpa, gpa + size). */
    void (*mark_dirty)(void *opaque, uint64_t gpa, uint64_t size);
    void (*nic_info)(void *opaque, RdmaNicInfo *info);
    /* The guest polls for completions in a tight loop and finds none: the host
     * may let the vCPU that made the present access wait for poll_end. */
    void (*poll_idle)(void *opaque);
    /* A completion has been written. */
    void (*poll_end)(void *opaque);
    void (*log)(void *opaque, int level, const char *message);
} RdmaHostOps;

/*
 * Limits and identity of a PVRDMA device; the names are those of
 * ibv_device_attr. pvrdma_config_default() fills in VMware's values.
 */
typedef struct PvrdmaConfig {
    uint32_t version;      /* 17..20, PVRDMA_REG_VERSION */
    uint32_t roce_version; /* 1 or 2 */
    uint32_t max_qp;       /* 1..65535 */
    uint32_t max_qp_wr;    /* 1..32768, a power of two */
    uint32_t max_sge;      /* 1..32 */
    uint32_t max_cq;       /* 1..65536 */
    uint32_t max_cqe;      /* 1..4194304, a power of two */
    uint32_t max_mr;       /* 1..16777215 */
    uint64_t max_mr_size;  /* bytes, 4096..1 GiB * 512 */
    uint32_t max_pd;       /* 1..16777215 */
    uint32_t max_srq;      /* 0..65535 */
    uint32_t max_srq_wr;   /* 1..32768, a power of two */
    uint32_t max_srq_sge;  /* 1..32 */
    uint32_t max_ah;       /* 1.. */
    uint32_t max_uar;      /* a power of two, 2..65536 */
    uint32_t gid_tbl_len;  /* 1..256 (an AV names a GID in 8 bits) */
    uint32_t max_qp_rd_atom;      /* 1..128, responder resources per QP */
    uint32_t max_qp_init_rd_atom; /* 1..128 */
    uint64_t node_guid;    /* host byte order; 0: made from the NIC's MAC */
    uint64_t number_seed;  /* random: where QPNs and keys begin; 0: with the lowest */
} PvrdmaConfig;

void pvrdma_config_default(PvrdmaConfig *config);

/* On where it serves every operation, on where there is any, off. */
enum { RDMA_ODP_AUTO, RDMA_ODP_ON, RDMA_ODP_OFF };

/* Which port of a host's RDMA device stands behind a device, and how. */
typedef struct RdmaHostPortConfig {
    const char *ibdev;    /* its name; NULL or empty: not given */
    uint32_t ibport;      /* 1.. */
    int32_t gid_index;    /* of the GID all packets come from; negative: the guest's own */
    bool add_addresses;   /* put addresses of the guest on the host's interface */
    /* The addresses that the guest may use, "ADDRESS[/BITS][+...]"; NULL or empty: any,
     * which add_addresses does not allow. */
    const char *gid_allow;
    int odp;              /* on-demand paging: RDMA_ODP_* */
    uint16_t peer_port;   /* TCP port of the control channel between devices, 0: none */
    bool lose_on_migrate; /* QPs that cannot come along go to the error state;
                           * otherwise they keep the device from migrating */
    /*
     * How messages of connection management pass: the socket of rdmacm-mux, or "off"
     * (umad); NULL or empty: its well-known socket where there is one, or umad.
     */
    const char *cm_mux;
} RdmaHostPortConfig;

/*
 * Create a PVRDMA device with the roce backend. On a bad limit returns NULL
 * and sets *error to a message (free() it) that names the property with its
 * valid range.
 */
RdmaDevice *pvrdma_device_create(const PvrdmaConfig *config, const RdmaHostOps *ops, void *opaque,
                                 char **error);
/*
 * As pvrdma_device_create, with the verbs backend on that port. Limits are those
 * of config or, where they are lower, the host device's. Errors: also what is
 * wrong with the port.
 */
RdmaDevice *pvrdma_device_create_verbs(const PvrdmaConfig *config, const RdmaHostPortConfig *port,
                                       const RdmaHostOps *ops, void *opaque, char **error);
/* Ends the device; NULL is none. */
void rdma_device_destroy(RdmaDevice *device);

/*
 * A descriptor that polls readable (POLLIN) when rdma_device_events() has
 * something to do; negative: there is none. It is the device's.
 */
int rdma_device_event_fd(RdmaDevice *device);
void rdma_device_events(RdmaDevice *device);

/* Cold reset: as after power-on. Guest memory is not touched. Whether it is stopped stays. */
void rdma_device_reset(RdmaDevice *device);

uint64_t rdma_device_bar_read(RdmaDevice *device, unsigned bar, uint64_t offset, unsigned size);
void rdma_device_bar_write(RdmaDevice *device, unsigned bar, uint64_t offset, uint64_t value,
                           unsigned size);

/* Replace the table of guest memory. The array is copied. */
void rdma_device_set_memory(RdmaDevice *device, const RdmaMemoryRegion *regions, size_t count);
/*
 * Behind a virtual IOMMU the guest's addresses are not those of the table. translate gets the
 * opaque of the device's callbacks and sets *gpa to where in the table a page begins; address is
 * a multiple of 4096. False: the page is not mapped, or not for such an access. NULL, as at
 * creation: nothing is translated. The device keeps an answer until
 * rdma_device_invalidate_translations(), rdma_device_set_translation() or
 * rdma_device_set_memory(). translate may call these three, and may lead back into the device as
 * raise_irq may: an IOMMU tells the guest what it refuses. With the verbs backend nothing may be
 * translated.
 */
typedef bool RdmaTranslate(void *opaque, uint64_t address, bool write, uint64_t *gpa);
void rdma_device_set_translation(RdmaDevice *device, RdmaTranslate *translate);
void rdma_device_invalidate_translations(RdmaDevice *device);
/* Report every write through mark_dirty (on) or none (off, as at creation). */
void rdma_device_set_dirty_log(RdmaDevice *device, bool on);

/* A frame on its way to the guest's NIC. True: it was ours and is consumed. */
bool rdma_device_receive(RdmaDevice *device, const uint8_t *frame, size_t size);
/* A frame that the guest's NIC sends, or the first RDMA_OBSERVED_BYTES of it. */
void rdma_device_observe_sent(RdmaDevice *device, const uint8_t *frame, size_t size);
/* After send_packet returned false: the network takes frames again. */
void rdma_device_tx_ready(RdmaDevice *device);
/* The deadline given to set_timer has come (early calls are harmless). */
void rdma_device_timer(RdmaDevice *device);
/* The carrier of the NIC has changed (see nic_info): port events. */
void rdma_device_link_changed(RdmaDevice *device);

/*
 * The VM stops (migration, snapshot, a pause): once rdma_device_stop() has
 * returned, the device neither reads nor writes guest memory and raises no
 * interrupt until rdma_device_start(). Meanwhile rdma_device_receive() answers
 * peers' requests with RNR NAK, where rnr_nak is set, and drops all else that
 * is the device's: nothing of that changes the state that is saved. A new device
 * is started. Stopping what is stopped and starting what is started does nothing.
 */
/*
 * With the verbs backend that is so of queue pairs whose other end is a device of this
 * kind. What others send to a stopped VM the host's device takes.
 */
void rdma_device_stop(RdmaDevice *device, bool rnr_nak);
void rdma_device_start(RdmaDevice *device);

/*
 * Migration; the device is stopped. rdma_device_save() gives its state to put,
 * in one piece, rdma_device_save_config() only what must be the same at the
 * destination, to be checked before the VM is stopped. docs/migration.md has the
 * format. Both return false where the device cannot be saved: put is not called, and
 * *error is set to why (free() it).
 */
/*
 * Whether the device can migrate as it is; if not, sets *error to why (free() it): a state
 * that is too large, or with the verbs backend, queue pairs whose other end cannot be told
 * of it.
 */
bool rdma_device_can_migrate(RdmaDevice *device, char **error);
/* No state has more bytes than this. */
#define RDMA_MAX_STATE (UINT64_C(1) << 32)
/*
 * The VM is stopped, and its memory is about to be sent for the last time. Queue pairs that
 * cannot come along go to the error state (lose_on_migrate), or rdma_device_save() will
 * refuse. What the device writes of that is reported through mark_dirty; then it writes
 * nothing more. Not for a snapshot, after which the VM goes on here.
 */
void rdma_device_finish_migration(RdmaDevice *device);
typedef void RdmaPutState(void *opaque, const uint8_t *state, size_t size);
bool rdma_device_save(RdmaDevice *device, RdmaPutState *put, void *opaque, char **error);
bool rdma_device_save_config(RdmaDevice *device, RdmaPutState *put, void *opaque, char **error);
/*
 * Makes a stopped device what the state says; guest memory is not looked at. state may hold the
 * configuration alone: then it is only checked. On bytes that are no state of such a device, or
 * of one that guests would see the difference to, returns false, sets *error to a message (free()
 * it) and leaves the device as after a reset.
 */
bool rdma_device_load(RdmaDevice *device, const uint8_t *state, size_t size, char **error);
bool rdma_device_check_config(RdmaDevice *device, const uint8_t *state, size_t size, char **error);

/* Calls visit for every counter, and for the number of objects of each kind
 * that exist, in a fixed order. name is a stable identifier such as "rx-packets"
 * or "qps". */
void rdma_device_statistics(RdmaDevice *device,
                            void (*visit)(void *opaque, const char *name, uint64_t value),
                            void *opaque);

#ifdef RDMA_FUZZ
/*
 * In fuzzing builds only: called before the device looks at guest memory, so
 * that the memory can change between two looks, as another CPU of the guest
 * could change it.
 */
extern void (*rdma_before_guest_read)(uint64_t gpa, uint64_t size);
#endif

#ifdef __cplusplus
}
#endif
