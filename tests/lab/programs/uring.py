"""connect() as programs do it that are written for io_uring: the kernel is asked over a ring, no system call connects.

Only what one connect needs; the layouts are those of linux/io_uring.h.
"""
import ctypes
import mmap
import os
import socket
import struct

SYS_IO_URING_SETUP, SYS_IO_URING_ENTER = 425, 426
IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES = 0, 0x8000000, 0x10000000
IORING_OP_CONNECT, IORING_ENTER_GETEVENTS = 16, 1
SQE = struct.Struct("=BBHiQQIIQ24x")
CQE = struct.Struct("=QiI")

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def sockaddr(family, address):
    if family == socket.AF_INET:
        packed = struct.pack("=H", family) + struct.pack("!H4s8x", address[1], socket.inet_aton(address[0]))
    else:
        words = (address[1], 0, socket.inet_pton(family, address[0]))
        packed = struct.pack("=H", family) + struct.pack("!HI16s", *words) + struct.pack("=I", 0)
    return ctypes.create_string_buffer(packed, len(packed))


def connect(connection, address):
    """Connects a socket; raises what the completion says."""
    params = bytearray(120)
    view = (ctypes.c_char * len(params)).from_buffer(params)
    ring = checked(libc.syscall(SYS_IO_URING_SETUP, 1, view))
    try:
        words = struct.unpack("=30I", params)
        sq, cq = words[10:20], words[20:30]
        (sq_tail, sq_mask, sq_array), (cq_head, cq_mask, cqes) = (sq[1], sq[2], sq[6]), (cq[0], cq[2], cq[5])
        sq_map = mmap.mmap(ring, sq_array + words[0] * 4, offset=IORING_OFF_SQ_RING)
        cq_map = mmap.mmap(ring, cqes + words[1] * CQE.size, offset=IORING_OFF_CQ_RING)
        entries = mmap.mmap(ring, words[0] * SQE.size, offset=IORING_OFF_SQES)
        name = sockaddr(connection.family, address)
        entry = (IORING_OP_CONNECT, 0, 0, connection.fileno(), len(name), ctypes.addressof(name), 0, 0, 7)
        SQE.pack_into(entries, 0, *entry)
        tail, mask = struct.unpack_from("=I", sq_map, sq_tail)[0], struct.unpack_from("=I", sq_map, sq_mask)[0]
        struct.pack_into("=I", sq_map, sq_array + (tail & mask) * 4, 0)
        struct.pack_into("=I", sq_map, sq_tail, tail + 1)
        checked(libc.syscall(SYS_IO_URING_ENTER, ring, 1, 1, IORING_ENTER_GETEVENTS, None, 0))
        head, mask = struct.unpack_from("=I", cq_map, cq_head)[0], struct.unpack_from("=I", cq_map, cq_mask)[0]
        _, result, _ = CQE.unpack_from(cq_map, cqes + (head & mask) * CQE.size)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
    finally:
        os.close(ring)
