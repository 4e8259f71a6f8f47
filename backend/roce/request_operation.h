// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a request's operation (9.2.1, table 35) says of its packet and its message.
#pragma once

#include "wire.h"

namespace rdma::roce {

inline bool is_first(uint8_t op)
{
    return op == op_send_first || op == op_write_first;
}
inline bool is_middle(uint8_t op)
{
    return op == op_send_middle || op == op_write_middle;
}
inline bool is_only(uint8_t op)
{
    return op == op_send_only || op == op_send_only_imm || op == op_send_only_inv ||
           op == op_write_only || op == op_write_only_imm;
}
inline bool is_send(uint8_t op)
{
    return op <= op_send_only_imm || op == op_send_last_inv || op == op_send_only_inv;
}
inline bool is_write(uint8_t op)
{
    return op >= op_write_first && op <= op_write_only_imm;
}
inline bool has_immediate(uint8_t op)
{
    return op == op_send_last_imm || op == op_send_only_imm || op == op_write_last_imm ||
           op == op_write_only_imm;
}
inline bool has_invalidate(uint8_t op)
{
    return op == op_send_last_inv || op == op_send_only_inv;
}
inline bool starts_message(uint8_t op)
{
    return is_first(op) || is_only(op);
}
inline bool ends_message(uint8_t op)
{
    return !is_first(op) && !is_middle(op);
}

} // namespace rdma::roce
