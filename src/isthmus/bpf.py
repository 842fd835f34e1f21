"""Classic BPF: programs by which the kernel drops what a socket need not hear, before anybody is woken.

The layout is that of `linux/filter.h`. A program sees one message or frame from its first byte on; numbers are loaded
in network order; a load beyond the end drops it. A socket's program can be exchanged at any time, as a whole.
"""

import socket
from array import array
from collections.abc import Iterable
from struct import Struct

Instruction = tuple[int, int, int, int]
"""An operation, how many instructions to skip if it is true, how many if it is false, an operand.

A program that returns 0 for a message drops it.
"""

LOAD_WORD, LOAD_HALF, LOAD_BYTE, LOAD_VALUE = 0x20, 0x28, 0x30, 0x00
SECOND_VALUE, COPY, COPY_BACK, COPY_HEADER_LENGTH = 0x01, 0x07, 0x87, 0xB1
"""To the second register: a value, or the first one; from it to the first; to it the length of an IPv4 header."""

LOAD_BYTE_BEYOND, LOAD_HALF_BEYOND, LOAD_WORD_BEYOND = 0x50, 0x48, 0x40
"""What is at the second register and an offset."""

IF_EQUAL, IF_COPY_EQUAL, IF_AT_LEAST, IF_BITS, SKIP, RETURN = 0x15, 0x1D, 0x35, 0x45, 0x05, 0x06
EVERYTHING = 0xFFFF_FFFF

_LOAD_ATTRIBUTE = 0xFFFF_F00C  # SKF_AD_NLATTR, for LOAD_WORD: its type is in the second register
_SO_ATTACH_FILTER = 26
_PROGRAM = Struct("@HP")  # struct sock_fprog: number of instructions, their address
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter: operation, jump if true, jump if false, operand


def attribute(kind: int, begin: int) -> tuple[Instruction, ...]:
    """To the first register: where in a netlink message the attribute *kind* is, sought from *begin* on; 0 if nowhere.

    The second register is used for that.
    """
    return ((SECOND_VALUE, 0, 0, kind), (LOAD_VALUE, 0, 0, begin), (LOAD_WORD, 0, 0, _LOAD_ATTRIBUTE))


def attach(hearer: socket.socket, program: Iterable[Instruction]) -> None:
    """Have *hearer* get only what *program* keeps, of what comes from now on."""
    code = array("B", b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    pointer, size = code.buffer_info()
    hearer.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(size // _INSTRUCTION.size, pointer))
