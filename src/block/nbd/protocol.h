/* The numbers of the NBD protocol (doc/proto.md of the nbd project): what server and client both speak. All fields on the wire are
 * big-endian. */
#ifndef BLOCK_NBD_PROTOCOL_H
#define BLOCK_NBD_PROTOCOL_H

#include <stdint.h>

#define NBD_DEFAULT_PORT 10809

/* Handshake. The server begins: NBD_INIT_MAGIC, NBD_OPTION_MAGIC, 16 bits of flags; the client answers with 32 bits of flags. */
#define NBD_INIT_MAGIC         UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC       UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)

#define NBD_FLAG_FIXED_NEWSTYLE   (1u << 0)
#define NBD_FLAG_NO_ZEROES        (1u << 1)
#define NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_C_NO_ZEROES      (1u << 1)

#define NBD_GREETING_SIZE      18 /* both magics, the flags */
#define NBD_OPTION_HEADER_SIZE 16 /* NBD_OPTION_MAGIC, option, length of what follows */
#define NBD_OPTION_REPLY_SIZE  20 /* NBD_OPTION_REPLY_MAGIC, option, type, length of what follows */
#define NBD_EXPORT_NAME_ZEROES 124
#define NBD_MAX_STRING         4096u

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ACK          1u
#define NBD_REP_SERVER       2u
#define NBD_REP_INFO         3u
#define NBD_REP_META_CONTEXT 4u

#define NBD_REP_ERROR               (1u << 31)
#define NBD_REP_ERR_UNSUP           (NBD_REP_ERROR + 1)
#define NBD_REP_ERR_POLICY          (NBD_REP_ERROR + 2)
#define NBD_REP_ERR_INVALID         (NBD_REP_ERROR + 3)
#define NBD_REP_ERR_PLATFORM        (NBD_REP_ERROR + 4)
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_ERROR + 5)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_ERROR + 6)
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_ERROR + 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_ERROR + 8)
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_ERROR + 9)

enum nbd_info {
    NBD_INFO_EXPORT = 0, /* 64 bits of size, 16 bits of transmission flags */
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3, /* 32 bits each: minimum, preferred, most of a payload */
};

/* Transmission flags. */
#define NBD_FLAG_HAS_FLAGS         (1u << 0)
#define NBD_FLAG_READ_ONLY         (1u << 1)
#define NBD_FLAG_SEND_FLUSH        (1u << 2)
#define NBD_FLAG_SEND_FUA          (1u << 3)
#define NBD_FLAG_ROTATIONAL        (1u << 4)
#define NBD_FLAG_SEND_TRIM         (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_SEND_DF           (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN    (1u << 8)
#define NBD_FLAG_SEND_CACHE        (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO    (1u << 11)

/* Transmission. A request: magic, 16 bits of flags, 16 of type, 64 of cookie, 64 of offset, 32 of length. */
#define NBD_REQUEST_MAGIC     0x25609513u
#define NBD_SIMPLE_MAGIC      0x67446698u
#define NBD_STRUCTURED_MAGIC  0x668e33efu
#define NBD_REQUEST_SIZE      28
#define NBD_SIMPLE_SIZE       16 /* magic, error, cookie */
#define NBD_CHUNK_SIZE        20 /* magic, 16 bits of flags, 16 of type, cookie, 32 of length */
#define NBD_USUAL_MAX_PAYLOAD (32u << 20)

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA       (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE   (1u << 1)
#define NBD_CMD_FLAG_DF        (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE   (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO (1u << 4)

#define NBD_REPLY_FLAG_DONE (1u << 0)

#define NBD_REPLY_TYPE_NONE        0u
#define NBD_REPLY_TYPE_OFFSET_DATA 1u /* 64 bits of offset, data */
#define NBD_REPLY_TYPE_OFFSET_HOLE 2u /* 64 bits of offset, 32 of length */
#define NBD_REPLY_TYPE_BLOCK_STATUS                                                                \
    5u /* 32 bits of context, then pairs: 32 bits of length, 32 of flags */
#define NBD_REPLY_TYPE_ERROR        ((1u << 15) + 1) /* 32 bits of error, 16 of length, text */
#define NBD_REPLY_TYPE_ERROR_OFFSET ((1u << 15) + 2) /* the same and 64 bits of offset */

/* Of the context "base:allocation". */
#define NBD_STATE_HOLE (1u << 0)
#define NBD_STATE_ZERO (1u << 1)

/* Errors on the wire. */
#define NBD_EPERM     1u
#define NBD_EIO       5u
#define NBD_ENOMEM    12u
#define NBD_EINVAL    22u
#define NBD_ENOSPC    28u
#define NBD_EOVERFLOW 75u
#define NBD_ENOTSUP   95u
#define NBD_ESHUTDOWN 108u

#endif
