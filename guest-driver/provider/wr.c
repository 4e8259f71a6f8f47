// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

#include <errno.h>

#include "wr.h"

/* The longest header of an opcode that has SGEs, but for atomics, whose one SGE always fits. */
static uint32_t send_header(bool datagrams)
{
	return datagrams ? sizeof(struct virtio_rdma_sq_datagram) :
			   sizeof(struct virtio_rdma_sq_rdma);
}

static uint32_t power_of_two(uint32_t least, uint32_t size)
{
	while (least < size)
		least *= 2;
	return least;
}

/* [virtio-rdma DEV-2] */
uint32_t vrdma_send_opcodes(enum ibv_qp_type type, uint32_t features)
{
	uint32_t opcodes = 1u << IBV_WR_SEND | 1u << IBV_WR_SEND_WITH_IMM;

	if (type != IBV_QPT_RC)
		return opcodes;
	opcodes |= 1u << IBV_WR_RDMA_WRITE | 1u << IBV_WR_RDMA_WRITE_WITH_IMM |
		   1u << IBV_WR_RDMA_READ;
	if (features & 1u << VIRTIO_RDMA_F_ATOMICS)
		opcodes |= 1u << IBV_WR_ATOMIC_CMP_AND_SWP | 1u << IBV_WR_ATOMIC_FETCH_AND_ADD;
	if (features & 1u << VIRTIO_RDMA_F_FAST_REGISTRATION)
		opcodes |= 1u << IBV_WR_SEND_WITH_INV;
	return opcodes;
}

uint32_t vrdma_send_entry_size(bool datagrams, uint32_t max_sges, uint32_t max_inline)
{
	const uint32_t sges = max_sges * (uint32_t)sizeof(struct virtio_rdma_sge);

	return power_of_two(64, send_header(datagrams) + (sges > max_inline ? sges : max_inline));
}

uint32_t vrdma_send_entry_sges(bool datagrams, uint32_t entry_size)
{
	return (entry_size - send_header(datagrams)) / (uint32_t)sizeof(struct virtio_rdma_sge);
}

uint32_t vrdma_send_entry_inline(bool datagrams, uint32_t entry_size)
{
	return entry_size - send_header(datagrams);
}

uint32_t vrdma_recv_entry_size(uint32_t max_sges)
{
	return power_of_two(32, (uint32_t)sizeof(struct virtio_rdma_rq_entry) +
					max_sges * (uint32_t)sizeof(struct virtio_rdma_sge));
}

uint32_t vrdma_recv_entry_sges(uint32_t entry_size)
{
	return (entry_size - (uint32_t)sizeof(struct virtio_rdma_rq_entry)) /
	       (uint32_t)sizeof(struct virtio_rdma_sge);
}

static void write_sges(void *at, const struct ibv_sge *sges, int num)
{
	struct virtio_rdma_sge *sge = at;
	int i;

	for (i = 0; i < num; ++i) {
		sge[i].addr = htole64(sges[i].addr);
		sge[i].length = htole32(sges[i].length);
		sge[i].lkey = htole32(sges[i].lkey);
	}
}

/* The number of bytes, or -1 where they are more than max. */
static int write_inline(uint8_t *at, const struct ibv_sge *sges, int num, uint32_t max)
{
	uint32_t bytes = 0;
	int i;

	for (i = 0; i < num; ++i) {
		if (sges[i].length > max - bytes)
			return -1;
		if (sges[i].length)
			memcpy(at + bytes, (const void *)(uintptr_t)sges[i].addr, sges[i].length);
		bytes += sges[i].length;
	}
	return (int)bytes;
}

static bool may_be_inline(enum ibv_wr_opcode opcode)
{
	return opcode != IBV_WR_RDMA_READ && opcode != IBV_WR_ATOMIC_CMP_AND_SWP &&
	       opcode != IBV_WR_ATOMIC_FETCH_AND_ADD;
}

static uint8_t send_flags(unsigned int flags)
{
	return (flags & IBV_SEND_FENCE ? VIRTIO_RDMA_SEND_FENCE : 0) |
	       (flags & IBV_SEND_SIGNALED ? VIRTIO_RDMA_SEND_SIGNALED : 0) |
	       (flags & IBV_SEND_SOLICITED ? VIRTIO_RDMA_SEND_SOLICITED : 0) |
	       (flags & IBV_SEND_INLINE ? VIRTIO_RDMA_SEND_INLINE : 0);
}

/* Writes what belongs to the opcode, and returns where the SGEs begin. */
static uint32_t write_send_header(void *slot, const struct ibv_send_wr *wr, bool datagrams)
{
	struct virtio_rdma_sq_datagram *datagram = slot;
	struct virtio_rdma_sq_atomic *atomic = slot;
	struct virtio_rdma_sq_entry *entry = slot;
	struct virtio_rdma_sq_rdma *rdma = slot;

	entry->key = 0;
	switch (wr->opcode) {
	case IBV_WR_SEND_WITH_IMM:
	case IBV_WR_SEND:
		entry->opcode = VIRTIO_RDMA_OP_SEND;
		if (wr->opcode == IBV_WR_SEND_WITH_IMM) {
			entry->opcode = VIRTIO_RDMA_OP_SEND_IMM;
			entry->imm_data = wr->imm_data;
		}
		if (!datagrams)
			return sizeof(*entry);
		datagram->qpn = htole32(wr->wr.ud.remote_qpn);
		datagram->qkey = htole32(wr->wr.ud.remote_qkey);
		datagram->av = ((const struct vrdma_ah *)wr->wr.ud.ah)->av;
		return sizeof(*datagram);
	case IBV_WR_SEND_WITH_INV:
		entry->opcode = VIRTIO_RDMA_OP_SEND_INV;
		entry->key = htole32(wr->invalidate_rkey);
		return sizeof(*entry);
	case IBV_WR_ATOMIC_CMP_AND_SWP:
	case IBV_WR_ATOMIC_FETCH_AND_ADD:
		entry->opcode = wr->opcode == IBV_WR_ATOMIC_CMP_AND_SWP ?
					VIRTIO_RDMA_OP_CMP_SWAP : VIRTIO_RDMA_OP_FETCH_ADD;
		atomic->remote_addr = htole64(wr->wr.atomic.remote_addr);
		atomic->compare_add = htole64(wr->wr.atomic.compare_add);
		atomic->swap = wr->opcode == IBV_WR_ATOMIC_CMP_AND_SWP ?
				       htole64(wr->wr.atomic.swap) : 0;
		atomic->rkey = htole32(wr->wr.atomic.rkey);
		atomic->reserved = 0;
		return sizeof(*atomic);
	case IBV_WR_RDMA_WRITE_WITH_IMM:
		entry->opcode = VIRTIO_RDMA_OP_WRITE_IMM;
		entry->imm_data = wr->imm_data;
		break;
	case IBV_WR_RDMA_READ:
		entry->opcode = VIRTIO_RDMA_OP_READ;
		break;
	default:
		entry->opcode = VIRTIO_RDMA_OP_WRITE;
		break;
	}
	rdma->remote_addr = htole64(wr->wr.rdma.remote_addr);
	rdma->rkey = htole32(wr->wr.rdma.rkey);
	rdma->reserved = 0;
	return sizeof(*rdma);
}

int vrdma_write_send(void *slot, const struct ibv_send_wr *wr,
		     const struct vrdma_send_limits *limits)
{
	struct virtio_rdma_sq_entry *entry = slot;
	const bool is_inline = wr->send_flags & IBV_SEND_INLINE;
	int count = wr->num_sge;
	uint32_t offset;

	if ((unsigned int)wr->opcode >= 32 || !(limits->opcodes >> wr->opcode & 1))
		return EINVAL;
	if (count < 0 || (!is_inline && (uint32_t)count > limits->max_sges))
		return EINVAL;
	if (is_inline && !may_be_inline(wr->opcode))
		return EINVAL;
	if (count != 1 && (wr->opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
			   wr->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD))
		return EINVAL;

	offset = write_send_header(slot, wr, limits->datagrams);
	if (is_inline) {
		count = write_inline((uint8_t *)slot + offset, wr->sg_list, count,
				     limits->max_inline);
		if (count < 0)
			return EINVAL;
	} else {
		write_sges((uint8_t *)slot + offset, wr->sg_list, count);
	}
	entry->wr_id = htole64(wr->wr_id);
	entry->flags = send_flags(wr->send_flags);
	entry->count = htole16((uint16_t)count);
	return 0;
}

int vrdma_write_recv(void *slot, const struct ibv_recv_wr *wr, uint32_t max_sges)
{
	struct virtio_rdma_rq_entry *entry = slot;

	if (wr->num_sge < 0 || (uint32_t)wr->num_sge > max_sges)
		return EINVAL;
	*entry = (struct virtio_rdma_rq_entry){
		.wr_id = htole64(wr->wr_id),
		.count = htole16((uint16_t)wr->num_sge),
	};
	write_sges(entry + 1, wr->sg_list, wr->num_sge);
	return 0;
}

int vrdma_ring_post_send(struct vrdma_ring *ring, struct ibv_send_wr *wr,
			 struct ibv_send_wr **bad_wr, const struct vrdma_send_limits *limits)
{
	int error = 0;

	for (; wr; wr = wr->next) {
		void *slot = vrdma_ring_slot(ring);

		error = slot ? vrdma_write_send(slot, wr, limits) : ENOMEM;
		if (error) {
			*bad_wr = wr;
			break;
		}
		++ring->next;
	}
	vrdma_ring_submit(ring);
	return error;
}

int vrdma_ring_post_recv(struct vrdma_ring *ring, struct ibv_recv_wr *wr,
			 struct ibv_recv_wr **bad_wr, uint32_t max_sges)
{
	int error = 0;

	for (; wr; wr = wr->next) {
		void *slot = vrdma_ring_slot(ring);

		error = slot ? vrdma_write_recv(slot, wr, max_sges) : ENOMEM;
		if (error) {
			*bad_wr = wr;
			break;
		}
		++ring->next;
	}
	vrdma_ring_submit(ring);
	return error;
}

static enum ibv_wc_status wc_status(uint8_t status)
{
	static const uint8_t statuses[] = {
		[VIRTIO_RDMA_WC_SUCCESS] = IBV_WC_SUCCESS,
		[VIRTIO_RDMA_WC_LOC_LEN_ERR] = IBV_WC_LOC_LEN_ERR,
		[VIRTIO_RDMA_WC_LOC_QP_OP_ERR] = IBV_WC_LOC_QP_OP_ERR,
		[VIRTIO_RDMA_WC_LOC_PROT_ERR] = IBV_WC_LOC_PROT_ERR,
		[VIRTIO_RDMA_WC_WR_FLUSH_ERR] = IBV_WC_WR_FLUSH_ERR,
		[VIRTIO_RDMA_WC_BAD_RESP_ERR] = IBV_WC_BAD_RESP_ERR,
		[VIRTIO_RDMA_WC_LOC_ACCESS_ERR] = IBV_WC_LOC_ACCESS_ERR,
		[VIRTIO_RDMA_WC_REM_INV_REQ_ERR] = IBV_WC_REM_INV_REQ_ERR,
		[VIRTIO_RDMA_WC_REM_ACCESS_ERR] = IBV_WC_REM_ACCESS_ERR,
		[VIRTIO_RDMA_WC_REM_OP_ERR] = IBV_WC_REM_OP_ERR,
		[VIRTIO_RDMA_WC_RETRY_EXC_ERR] = IBV_WC_RETRY_EXC_ERR,
		[VIRTIO_RDMA_WC_RNR_RETRY_EXC_ERR] = IBV_WC_RNR_RETRY_EXC_ERR,
		[VIRTIO_RDMA_WC_REM_ABORT_ERR] = IBV_WC_REM_ABORT_ERR,
		[VIRTIO_RDMA_WC_FATAL_ERR] = IBV_WC_FATAL_ERR,
		[VIRTIO_RDMA_WC_RESP_TIMEOUT_ERR] = IBV_WC_RESP_TIMEOUT_ERR,
		[VIRTIO_RDMA_WC_GENERAL_ERR] = IBV_WC_GENERAL_ERR,
		[VIRTIO_RDMA_WC_MW_BIND_ERR] = IBV_WC_MW_BIND_ERR,
	};

	return status < sizeof(statuses) ? statuses[status] : IBV_WC_GENERAL_ERR;
}

static enum ibv_wc_opcode wc_opcode(uint8_t opcode)
{
	switch (opcode) {
	case VIRTIO_RDMA_WC_WRITE:
		return IBV_WC_RDMA_WRITE;
	case VIRTIO_RDMA_WC_READ:
		return IBV_WC_RDMA_READ;
	case VIRTIO_RDMA_WC_RECV:
		return IBV_WC_RECV;
	case VIRTIO_RDMA_WC_RECV_WRITE_IMM:
		return IBV_WC_RECV_RDMA_WITH_IMM;
	case VIRTIO_RDMA_WC_CMP_SWAP:
		return IBV_WC_COMP_SWAP;
	case VIRTIO_RDMA_WC_FETCH_ADD:
		return IBV_WC_FETCH_ADD;
	case VIRTIO_RDMA_WC_LOCAL_INV:
		return IBV_WC_LOCAL_INV;
	default:
		return IBV_WC_SEND;
	}
}

static void read_completion(const struct virtio_rdma_cq_entry *entry, struct ibv_wc *wc)
{
	*wc = (struct ibv_wc){
		.wr_id = le64toh(entry->wr_id),
		.status = wc_status(entry->status),
		.opcode = wc_opcode(entry->opcode),
		.vendor_err = le32toh(entry->vendor_err),
		.byte_len = le32toh(entry->byte_len),
		.qp_num = le32toh(entry->qpn),
		.src_qp = le32toh(entry->src_qpn),
		.sl = entry->sl,
	};
	if (entry->flags & VIRTIO_RDMA_WC_GRH)
		wc->wc_flags |= IBV_WC_GRH;
	if (entry->flags & VIRTIO_RDMA_WC_IMM) {
		wc->wc_flags |= IBV_WC_WITH_IMM;
		wc->imm_data = entry->imm_data;
	}
	if (entry->flags & VIRTIO_RDMA_WC_INVALIDATED) {
		wc->wc_flags |= IBV_WC_WITH_INV;
		wc->invalidated_rkey = le32toh(entry->key);
	}
}

int vrdma_cq_ring_poll(struct vrdma_cq_ring *cq, int num, struct ibv_wc *wc)
{
	const uint32_t old = cq->consumer;
	const struct virtio_rdma_cq_entry *entry;
	int taken = 0;

	while (taken < num && (entry = vrdma_cq_next(cq)) != NULL)
		read_completion(entry, &wc[taken++]);
	if (cq->consumer != old)
		vrdma_cq_release(cq);
	return taken;
}
