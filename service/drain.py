"""The end of a listening socket that cuts nobody off.

To close it resets every connection that the system has set up and nobody has accepted yet. So the system is first told
to begin no further ones; those that are there are accepted, and then it is closed.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
import sys

log = logging.getLogger(__name__)

SETTLE_S = 0.1
"""Time in which connections that have begun are set up, and accepted."""
_SO_ATTACH_FILTER = 26
_FLAGS, _SYN_ACK, _SYN = 13, 0x12, 0x02
# Classic BPF over the TCP header: take the flags, and drop the packet where SYN alone is set.
_ONLY_WHAT_HAS_BEGUN = (
    (0x30, 0, 0, _FLAGS),
    (0x54, 0, 0, _SYN_ACK),
    (0x15, 0, 1, _SYN),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


def begin_no_more(listener: socket.socket) -> bool:
    """Let no further connection begin, in any process that shares the socket; whether the system can do that."""
    if sys.platform != "linux":
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _ONLY_WHAT_HAS_BEGUN))
    program = struct.pack("HP", len(_ONLY_WHAT_HAS_BEGUN), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as exc:
        log.info("connections that begin in the last moment may be cut: %s", exc)
        return False
    return True
