/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An RDMA device as a C object. A hypervisor sees this header, those of the kinds of
 * devices, which make one (hw/pvrdma/pvrdma.h), and nothing else.
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

#include "rdma_host.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Where the device runs out of the host's memory or threads in a call, that call fails, and
 * with it the device: it says so through log, its guest gets IBV_EVENT_DEVICE_FATAL, and all
 * its objects are gone until the driver sets it up anew.
 */
typedef struct RdmaDevice RdmaDevice;

/* Of a frame that the NIC sends. */
#define RDMA_OBSERVED_BYTES 96u

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

/*
 * Kinds of devices whose control channel and events are queues that the host serves, such as
 * virtqueues.
 */
/* Bytes that no reply and no event has more of. */
#define RDMA_MAX_REPLY 256u
/*
 * Carries out a command that the guest has sent. request: a copy. room: bytes that the guest has
 * room for; no more are written to reply. Returns the number of bytes written, or -EINPROGRESS:
 * rdma_device_take_reply() gives the reply, with this tag, once raise_irq has named vector 0.
 */
int64_t rdma_device_command(RdmaDevice *device, uint64_t tag, const uint8_t *request, size_t size,
                            uint8_t *reply, size_t room);
/*
 * The oldest reply that rdma_device_command() has left out, with the tag that it was given.
 * Returns its bytes, RDMA_MAX_REPLY at most and no more than the command had room for; 0: there
 * is none.
 */
size_t rdma_device_take_reply(RdmaDevice *device, uint64_t *tag, uint8_t *reply);
/*
 * The oldest event of an event queue, to be called when the guest has a buffer for one. Queue 1
 * has the asynchronous events; from 2 on come the completion vectors. raise_irq names the queue
 * when it is no longer empty. Returns its bytes, RDMA_MAX_REPLY at most; 0: there is none.
 */
size_t rdma_device_take_event(RdmaDevice *device, unsigned queue, uint8_t *event);
/* Feature bits, numbered as the kind of device has it: what it offers with this backend, and what
 * the driver has accepted of them. None are accepted after creation and after a reset. */
uint64_t rdma_device_offered_features(RdmaDevice *device);
void rdma_device_set_features(RdmaDevice *device, uint64_t features);
/* Which event queues the driver has set up: bit n is queue n. None after a reset. */
void rdma_device_set_event_queues(RdmaDevice *device, uint32_t queues);

/* Replace the table of guest memory. The array is copied. */
void rdma_device_set_memory(RdmaDevice *device, const RdmaMemoryRegion *regions, size_t count);
/* translate: behind a virtual IOMMU; NULL, as at creation: nothing is translated, and nothing may
 * be with the verbs backend. */
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

#ifdef __cplusplus
}
#endif
