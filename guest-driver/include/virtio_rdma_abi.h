/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a virtio RDMA device and its drivers share: numbers and layouts of docs/virtio-rdma.
 * The device, Linux's driver, rdma-core's provider and the tests all include this file.
 *
 * All fields are little-endian and naturally aligned, but for immediate data, which stands
 * as it goes over the wire. "reserved" is 0 from the driver and from the device.
 */
#ifndef VIRTIO_RDMA_ABI_H
#define VIRTIO_RDMA_ABI_H

#include <linux/types.h>

/* Device type (docs/virtio-rdma/device.md). */
#define VIRTIO_RDMA_ID 42

/* Feature bits. */
#define VIRTIO_RDMA_F_ATOMICS 0
#define VIRTIO_RDMA_F_FAST_REGISTRATION 1
#define VIRTIO_RDMA_F_SRQ 2
/* Allotted, and not yet defined. */
#define VIRTIO_RDMA_F_UC 3
#define VIRTIO_RDMA_F_MEMORY_WINDOWS 4
#define VIRTIO_RDMA_F_MULTICAST 5
#define VIRTIO_RDMA_F_RESIZE 6
#define VIRTIO_RDMA_F_TIMESTAMPS 7
#define VIRTIO_RDMA_F_QP_COUNTERS 8

/* Virtqueues. Completion event queue N is virtqueue VIRTIO_RDMA_VQ_COMPLETION + N. */
#define VIRTIO_RDMA_VQ_CONTROL 0
#define VIRTIO_RDMA_VQ_EVENT 1
#define VIRTIO_RDMA_VQ_COMPLETION 2
#define VIRTIO_RDMA_MAX_COMPLETION_QUEUES 8

/* Device configuration. */
struct virtio_rdma_config {
	__u8 mac[6]; /* of the network card that the device shares its network with */
	__le16 status;
	__le32 num_completion_queues; /* 1 to VIRTIO_RDMA_MAX_COMPLETION_QUEUES */
};
#define VIRTIO_RDMA_S_LINK_UP 1

/* The shared memory region of the doorbells: page N is that of context N. */
#define VIRTIO_RDMA_SHM_DOORBELLS 0
#define VIRTIO_RDMA_PAGE_SIZE 4096

/* Control queue (docs/virtio-rdma/control.md). A request and a reply begin with these. */
struct virtio_rdma_request {
	__le32 command;
	__le32 object; /* what it is about; see each command */
};
struct virtio_rdma_reply {
	__le32 status;
	__le32 object; /* what has been made; 0 otherwise */
};

enum virtio_rdma_command {
	VIRTIO_RDMA_QUERY_DEVICE = 0,
	VIRTIO_RDMA_QUERY_COUNTERS = 1,
	VIRTIO_RDMA_CREATE_CONTEXT = 2,
	VIRTIO_RDMA_DESTROY_CONTEXT = 3,
	VIRTIO_RDMA_CREATE_PD = 4,
	VIRTIO_RDMA_DESTROY_PD = 5,
	VIRTIO_RDMA_CREATE_MR = 6,
	VIRTIO_RDMA_DESTROY_MR = 7,
	VIRTIO_RDMA_CREATE_CQ = 8,
	VIRTIO_RDMA_DESTROY_CQ = 9,
	VIRTIO_RDMA_CREATE_SRQ = 10,
	VIRTIO_RDMA_ARM_SRQ = 11,
	VIRTIO_RDMA_QUERY_SRQ = 12,
	VIRTIO_RDMA_DESTROY_SRQ = 13,
	VIRTIO_RDMA_CREATE_QP = 14,
	VIRTIO_RDMA_MODIFY_QP = 15,
	VIRTIO_RDMA_QUERY_QP = 16,
	VIRTIO_RDMA_DESTROY_QP = 17,
	VIRTIO_RDMA_ADD_GID = 18,
	VIRTIO_RDMA_DELETE_GID = 19,
};

enum virtio_rdma_status {
	VIRTIO_RDMA_OK = 0,
	VIRTIO_RDMA_ERR_COMMAND = 1, /* unknown, or of a feature that was not negotiated */
	VIRTIO_RDMA_ERR_LENGTH = 2,  /* of the request, or of the room for the reply */
	VIRTIO_RDMA_ERR_INVALID = 3, /* a value that is not allowed */
	VIRTIO_RDMA_ERR_OBJECT = 4,  /* a number that names nothing */
	VIRTIO_RDMA_ERR_BUSY = 5,    /* something still refers to it */
	VIRTIO_RDMA_ERR_LIMIT = 6,   /* as many as there may be exist */
	VIRTIO_RDMA_ERR_STATE = 7,   /* a transition that does not exist */
	VIRTIO_RDMA_ERR_ADDRESS = 8, /* no memory that the device reaches */
	VIRTIO_RDMA_ERR_DEVICE = 9,  /* the device has failed, for no fault of the request */
};

/* QUERY_DEVICE's reply. */
struct virtio_rdma_limits {
	struct virtio_rdma_reply reply;
	__u8 node_guid[8]; /* EUI-64, first byte first */
	__le64 max_mr_size; /* bytes */
	__le64 page_sizes;  /* bit n: MRs may be of pages of 2^n bytes */
	__le32 max_pd;
	__le32 max_mr;
	__le32 max_mr_pages; /* of one MR */
	__le32 max_fast_registration_pages; /* of one registration */
	__le32 max_pages; /* of all MRs and queues together */
	__le32 max_cq;
	__le32 max_cq_entries;
	__le32 max_srq;
	__le32 max_srq_entries;
	__le32 max_qp;
	__le32 max_sq_entries;
	__le32 max_rq_entries;
	__le32 max_message_size; /* bytes */
	__le16 max_sges;   /* of a request */
	__le16 max_inline; /* bytes */
	__le16 max_dest_rd_atomic;
	__le16 max_rd_atomic;
	__le16 num_gids;
	__u8 max_mtu; /* enum virtio_rdma_mtu */
	__u8 ack_delay; /* local CA ACK delay: 4.096 us * 2^n */
};

/* QUERY_COUNTERS' reply; VIRTIO_RDMA_NOT_COUNTED where the device does not know. */
enum virtio_rdma_counter {
	VIRTIO_RDMA_SENT_PACKETS,
	VIRTIO_RDMA_RECEIVED_PACKETS,
	VIRTIO_RDMA_DROPPED_PACKETS, /* received, and not as they must be */
	VIRTIO_RDMA_DUPLICATE_REQUESTS,
	VIRTIO_RDMA_OUT_OF_SEQUENCE, /* requests received after one that is missing */
	VIRTIO_RDMA_SEQUENCE_NAKS,   /* received */
	VIRTIO_RDMA_RNR_NAKS_SENT,
	VIRTIO_RDMA_RNR_NAKS_RECEIVED,
	VIRTIO_RDMA_TIMEOUTS, /* of a requester */
	VIRTIO_RDMA_RETRIES_EXCEEDED,
	VIRTIO_RDMA_NUM_COUNTERS,
};
#define VIRTIO_RDMA_NOT_COUNTED 0xffffffffffffffffULL
struct virtio_rdma_counters {
	struct virtio_rdma_reply reply;
	__le64 counters[VIRTIO_RDMA_NUM_COUNTERS];
};

enum virtio_rdma_access {
	VIRTIO_RDMA_LOCAL_WRITE = 1,
	VIRTIO_RDMA_REMOTE_WRITE = 2,
	VIRTIO_RDMA_REMOTE_READ = 4,
	VIRTIO_RDMA_REMOTE_ATOMIC = 8,
};

enum virtio_rdma_mr_type {
	VIRTIO_RDMA_MR_PAGES = 0,
	VIRTIO_RDMA_MR_DMA = 1,
	VIRTIO_RDMA_MR_FAST_REGISTRATION = 2,
};
struct virtio_rdma_create_mr {
	struct virtio_rdma_request request; /* object: PD */
	__u8 type;
	__u8 page_shift;
	__le16 reserved;
	__le32 access;
	__le64 iova;
	__le64 length; /* bytes */
	/* le64: the addresses of its pages follow. */
};
struct virtio_rdma_create_mr_reply {
	struct virtio_rdma_reply reply; /* object: MR */
	__le32 lkey;
	__le32 rkey;
};

struct virtio_rdma_create_cq {
	struct virtio_rdma_request request; /* object: completion event queue */
	__le32 entries; /* a power of two */
	__le32 reserved;
	__le64 state; /* address of its struct virtio_rdma_cq_state */
	/* le64: the addresses of its pages follow. */
};

struct virtio_rdma_create_srq {
	struct virtio_rdma_request request; /* object: PD */
	__le32 context;
	__le16 entries; /* a power of two */
	__le16 entry_size; /* bytes, a power of two */
	__le64 state; /* address of its struct virtio_rdma_queue_state */
	/* le64: the addresses of its pages follow. */
};
/* ARM_SRQ's request, QUERY_SRQ's reply. */
struct virtio_rdma_arm_srq {
	struct virtio_rdma_request request;
	__le32 limit;
	__le32 reserved;
};
struct virtio_rdma_query_srq_reply {
	struct virtio_rdma_reply reply;
	__le32 limit;
	__le32 reserved;
};

#define VIRTIO_RDMA_GSI_QPN 1
enum virtio_rdma_qp_type {
	VIRTIO_RDMA_QP_GSI = 1,
	VIRTIO_RDMA_QP_RC = 2,
	VIRTIO_RDMA_QP_UC = 3,
	VIRTIO_RDMA_QP_UD = 4,
};
enum virtio_rdma_qp_flags {
	VIRTIO_RDMA_QP_SIGNAL_ALL = 1,
	VIRTIO_RDMA_QP_USES_SRQ = 2,
};
struct virtio_rdma_create_qp {
	struct virtio_rdma_request request; /* object: PD */
	__le32 context;
	__u8 type;
	__u8 flags;
	__le16 reserved;
	__le32 send_cq;
	__le32 recv_cq;
	__le32 srq;
	__le16 sq_entries; /* a power of two */
	__le16 sq_entry_size; /* bytes, a power of two */
	__le16 rq_entries; /* a power of two; 0 with an SRQ */
	__le16 rq_entry_size; /* bytes, a power of two; 0 with an SRQ */
	__le32 reserved2;
	__le64 sq_state; /* addresses of their struct virtio_rdma_queue_state */
	__le64 rq_state; /* 0 with an SRQ */
	/* le64: the addresses of the SQ's pages, then those of the RQ's, follow. */
};

enum virtio_rdma_mtu {
	VIRTIO_RDMA_MTU_256 = 1,
	VIRTIO_RDMA_MTU_512 = 2,
	VIRTIO_RDMA_MTU_1024 = 3,
	VIRTIO_RDMA_MTU_2048 = 4,
	VIRTIO_RDMA_MTU_4096 = 5,
};
enum virtio_rdma_qp_state {
	VIRTIO_RDMA_QP_RESET = 0,
	VIRTIO_RDMA_QP_INIT = 1,
	VIRTIO_RDMA_QP_RTR = 2,
	VIRTIO_RDMA_QP_RTS = 3,
	VIRTIO_RDMA_QP_SQD = 4,
	VIRTIO_RDMA_QP_SQE = 5,
	VIRTIO_RDMA_QP_ERR = 6,
};
enum virtio_rdma_attribute {
	VIRTIO_RDMA_ATTR_STATE = 1 << 0,
	VIRTIO_RDMA_ATTR_CURRENT_STATE = 1 << 1,
	VIRTIO_RDMA_ATTR_ACCESS = 1 << 2,
	VIRTIO_RDMA_ATTR_QKEY = 1 << 3,
	VIRTIO_RDMA_ATTR_AV = 1 << 4,
	VIRTIO_RDMA_ATTR_PATH_MTU = 1 << 5,
	VIRTIO_RDMA_ATTR_TIMEOUT = 1 << 6,
	VIRTIO_RDMA_ATTR_RETRY_COUNT = 1 << 7,
	VIRTIO_RDMA_ATTR_RNR_RETRY = 1 << 8,
	VIRTIO_RDMA_ATTR_RQ_PSN = 1 << 9,
	VIRTIO_RDMA_ATTR_MAX_RD_ATOMIC = 1 << 10,
	VIRTIO_RDMA_ATTR_MIN_RNR_TIMER = 1 << 11,
	VIRTIO_RDMA_ATTR_SQ_PSN = 1 << 12,
	VIRTIO_RDMA_ATTR_MAX_DEST_RD_ATOMIC = 1 << 13,
	/* Bits 14 and 16 are not used. */
	VIRTIO_RDMA_ATTR_DEST_QPN = 1 << 15,
	VIRTIO_RDMA_ATTR_SQD_EVENT = 1 << 17,
};

/* Where a connected QP's packets or a datagram go. */
struct virtio_rdma_av {
	__u8 dgid[16];
	__le32 flow_label; /* 20 bits */
	__le16 sgid_index;
	__u8 hop_limit;
	__u8 traffic_class;
	__u8 dmac[6];
	__u8 sl;
	__u8 reserved;
};

struct virtio_rdma_qp_attributes {
	__le32 mask; /* enum virtio_rdma_attribute; QUERY_QP gives all */
	__u8 state;
	__u8 current_state;
	__u8 path_mtu;
	__u8 max_rd_atomic;
	__u8 max_dest_rd_atomic;
	__u8 min_rnr_timer; /* 5 bits */
	__u8 timeout; /* 5 bits */
	__u8 retry_count; /* 3 bits */
	__u8 rnr_retry; /* 3 bits */
	__u8 sqd_event;  /* MODIFY_QP: send VIRTIO_RDMA_EVENT_SQ_DRAINED when drained */
	__u8 sq_draining; /* QUERY_QP: in state SQD, not yet drained */
	__u8 reserved;
	__le32 access;
	__le32 qkey;
	__le32 rq_psn; /* 24 bits */
	__le32 sq_psn; /* 24 bits */
	__le32 dest_qpn; /* 24 bits */
	struct virtio_rdma_av av;
};
struct virtio_rdma_modify_qp {
	struct virtio_rdma_request request; /* object: QPN */
	struct virtio_rdma_qp_attributes attributes;
};
struct virtio_rdma_query_qp_reply {
	struct virtio_rdma_reply reply;
	struct virtio_rdma_qp_attributes attributes;
};

#define VIRTIO_RDMA_NO_VLAN 0xffff
struct virtio_rdma_add_gid {
	struct virtio_rdma_request request; /* object: index */
	__u8 gid[16];
	__u8 mac[6]; /* Ethernet address that its packets are sent from */
	__le16 vlan; /* identifier of the VLAN that it is on, or VIRTIO_RDMA_NO_VLAN */
};

/* Doorbells and queues in memory (docs/virtio-rdma/queues.md). */
enum virtio_rdma_doorbell {
	VIRTIO_RDMA_DOORBELL_SQ = 0,
	VIRTIO_RDMA_DOORBELL_RQ = 1,
	VIRTIO_RDMA_DOORBELL_SRQ = 2,
};
/*
 * What is written, as __le32, at offset 0 of a doorbell page. number: of the QP or SRQ, 24 bits;
 * bits 24 to 29 are 0.
 */
#define VIRTIO_RDMA_DOORBELL(kind, number) ((__u32)(kind) << 30 | (__u32)(number))

/* Addresses of states are multiples of this. */
#define VIRTIO_RDMA_STATE_ALIGNMENT 128

/* Of an SQ, RQ or SRQ. Indices run freely: entry i is in slot i modulo the queue's entries. */
struct virtio_rdma_queue_state {
	/* The driver's. */
	__le32 producer; /* entries that have been posted */
	__le32 reserved[15];
	/* The device's. */
	__le32 consumer; /* entries that have been taken */
	__le32 doorbell; /* index of the entry that a doorbell is wanted for */
	__le32 reserved2[14];
};

struct virtio_rdma_cq_state {
	/* The driver's. */
	__le32 consumer; /* entries that have been polled */
	__le32 arm; /* sequence << 2 | enum virtio_rdma_arm */
	__le32 reserved[14];
	/* The device's. */
	__le32 notified; /* the arm word that the last event was for */
	__le32 reserved2[15];
};
enum virtio_rdma_arm {
	VIRTIO_RDMA_ARM_NONE = 0,
	VIRTIO_RDMA_ARM_NEXT = 1,
	VIRTIO_RDMA_ARM_SOLICITED = 2,
};

enum virtio_rdma_opcode {
	VIRTIO_RDMA_OP_WRITE = 0,
	VIRTIO_RDMA_OP_WRITE_IMM = 1,
	VIRTIO_RDMA_OP_SEND = 2,
	VIRTIO_RDMA_OP_SEND_IMM = 3,
	VIRTIO_RDMA_OP_READ = 4,
	VIRTIO_RDMA_OP_CMP_SWAP = 5,
	VIRTIO_RDMA_OP_FETCH_ADD = 6,
	VIRTIO_RDMA_OP_LOCAL_INV = 7,
	VIRTIO_RDMA_OP_BIND_MW = 8, /* allotted, and not yet defined */
	VIRTIO_RDMA_OP_SEND_INV = 9,
	VIRTIO_RDMA_OP_FAST_REGISTRATION = 10,
};
enum virtio_rdma_send_flags {
	VIRTIO_RDMA_SEND_FENCE = 1,
	VIRTIO_RDMA_SEND_SIGNALED = 2,
	VIRTIO_RDMA_SEND_SOLICITED = 4,
	VIRTIO_RDMA_SEND_INLINE = 8,
};

struct virtio_rdma_sge {
	__le64 addr;
	__le32 length; /* bytes */
	__le32 lkey;
};

/*
 * An entry of an SQ: this, what belongs to its opcode, and then the SGEs or with
 * VIRTIO_RDMA_SEND_INLINE the bytes themselves.
 */
struct virtio_rdma_sq_entry {
	__le64 wr_id;
	__u8 opcode;
	__u8 flags;
	__le16 count; /* SGEs, or bytes inline */
	union {
		__be32 imm_data; /* WRITE_IMM, SEND_IMM */
		__le32 key; /* SEND_INV, LOCAL_INV: to be invalidated */
	};
};
/* WRITE, WRITE_IMM, READ. SEND, SEND_IMM, SEND_INV and LOCAL_INV of connected QPs have nothing. */
struct virtio_rdma_sq_rdma {
	struct virtio_rdma_sq_entry entry;
	__le64 remote_addr;
	__le32 rkey;
	__le32 reserved;
};
/* CMP_SWAP, FETCH_ADD: one SGE of 8 bytes. */
struct virtio_rdma_sq_atomic {
	struct virtio_rdma_sq_entry entry;
	__le64 remote_addr;
	__le64 compare_add;
	__le64 swap;
	__le32 rkey;
	__le32 reserved;
};
/* SEND, SEND_IMM of UD and GSI QPs. */
struct virtio_rdma_sq_datagram {
	struct virtio_rdma_sq_entry entry;
	__le32 qpn;
	__le32 qkey;
	struct virtio_rdma_av av;
};
/* FAST_REGISTRATION, of QPs of context 0: no SGE. */
struct virtio_rdma_sq_registration {
	struct virtio_rdma_sq_entry entry;
	__le64 iova;
	__le64 length; /* bytes */
	__le64 pages; /* address of the array of its pages' addresses */
	__le32 key;
	__le16 access; /* enum virtio_rdma_access */
	__u8 page_shift;
	__u8 reserved;
};

/* An entry of an RQ or SRQ: this, and then the SGEs. */
struct virtio_rdma_rq_entry {
	__le64 wr_id;
	__le16 count; /* SGEs */
	__le16 reserved[3];
};

enum virtio_rdma_completion_opcode {
	VIRTIO_RDMA_WC_SEND = 0,
	VIRTIO_RDMA_WC_WRITE = 1,
	VIRTIO_RDMA_WC_READ = 2,
	VIRTIO_RDMA_WC_RECV = 3,
	VIRTIO_RDMA_WC_RECV_WRITE_IMM = 4,
	VIRTIO_RDMA_WC_CMP_SWAP = 5,
	VIRTIO_RDMA_WC_FETCH_ADD = 6,
	VIRTIO_RDMA_WC_LOCAL_INV = 7,
	VIRTIO_RDMA_WC_FAST_REGISTRATION = 8,
};
enum virtio_rdma_completion_flags {
	VIRTIO_RDMA_WC_GRH = 1,
	VIRTIO_RDMA_WC_IMM = 2,
	VIRTIO_RDMA_WC_INVALIDATED = 4,
	VIRTIO_RDMA_WC_VLAN = 8,
};
enum virtio_rdma_completion_status {
	VIRTIO_RDMA_WC_SUCCESS = 0,
	VIRTIO_RDMA_WC_LOC_LEN_ERR = 1,
	VIRTIO_RDMA_WC_LOC_QP_OP_ERR = 2,
	VIRTIO_RDMA_WC_LOC_PROT_ERR = 3,
	VIRTIO_RDMA_WC_WR_FLUSH_ERR = 4,
	VIRTIO_RDMA_WC_BAD_RESP_ERR = 5,
	VIRTIO_RDMA_WC_LOC_ACCESS_ERR = 6,
	VIRTIO_RDMA_WC_REM_INV_REQ_ERR = 7,
	VIRTIO_RDMA_WC_REM_ACCESS_ERR = 8,
	VIRTIO_RDMA_WC_REM_OP_ERR = 9,
	VIRTIO_RDMA_WC_RETRY_EXC_ERR = 10,
	VIRTIO_RDMA_WC_RNR_RETRY_EXC_ERR = 11,
	VIRTIO_RDMA_WC_REM_ABORT_ERR = 12, /* not used */
	VIRTIO_RDMA_WC_FATAL_ERR = 13,
	VIRTIO_RDMA_WC_RESP_TIMEOUT_ERR = 14, /* not used */
	VIRTIO_RDMA_WC_GENERAL_ERR = 15,
	VIRTIO_RDMA_WC_MW_BIND_ERR = 16, /* a memory management operation */
};

enum virtio_rdma_network {
	VIRTIO_RDMA_NETWORK_IPV4 = 4,
	VIRTIO_RDMA_NETWORK_IPV6 = 6,
};

/* An entry of a CQ. The device writes phase last. */
struct virtio_rdma_cq_entry {
	__le64 wr_id;
	__le32 qpn;
	__le32 byte_len;
	union {
		__be32 imm_data;
		__le32 key; /* that was invalidated */
	};
	__le32 vendor_err;
	__le64 timestamp; /* VIRTIO_RDMA_F_TIMESTAMPS */
	/* Of datagrams that were received. */
	__le32 src_qpn;
	__u8 smac[6]; /* 0: the device does not know it */
	__le16 vlan;
	__u8 network; /* enum virtio_rdma_network */
	__u8 sl;
	__le16 reserved[7];
	__u8 opcode;
	__u8 flags;
	__u8 status;
	__u8 phase; /* 1 in the first turn of the queue, 0 in the second, ... */
};

/* Events (docs/virtio-rdma/events.md): what a buffer of the event queue is filled with. */
enum virtio_rdma_event_type {
	VIRTIO_RDMA_EVENT_DEVICE_FATAL = 0,
	VIRTIO_RDMA_EVENT_CQ_ERR = 1,
	VIRTIO_RDMA_EVENT_SRQ_ERR = 2,
	VIRTIO_RDMA_EVENT_SRQ_LIMIT = 3,
	VIRTIO_RDMA_EVENT_QP_FATAL = 4,
	VIRTIO_RDMA_EVENT_QP_REQ_ERR = 5,
	VIRTIO_RDMA_EVENT_QP_ACCESS_ERR = 6,
	VIRTIO_RDMA_EVENT_COMM_EST = 7,
	VIRTIO_RDMA_EVENT_SQ_DRAINED = 8,
	VIRTIO_RDMA_EVENT_LAST_WQE = 9,
};
struct virtio_rdma_event {
	__le32 type;
	__le32 object; /* number of the CQ, SRQ or QP; 0 for DEVICE_FATAL */
};
/* What a buffer of a completion event queue is filled with. */
struct virtio_rdma_completion_event {
	__le32 cq;
};

#endif
