"""TCP ports of this machine: checks whether one is free, and reserves one for a server."""

import errno
import random
import socket
import sys

#: Below the kernel's range for outgoing connections, so that none of those can take a chosen port.
_CANDIDATES = range(20_000, 32_000)
_TRIES = 200
_LOCAL = "127.0.0.1"
#: On Linux a server can listen on a port that another socket is bound to without listening, if both set SO_REUSEADDR.
_CAN_HOLD = sys.platform == "linux"

#: The socket that holds each port handed out, or None where the port is only remembered.
_held: dict[int, socket.socket | None] = {}


def is_free(port: int, host: str = _LOCAL) -> bool:
    """Tell whether a server can listen on this port. It can if `free_port` holds the port for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections of an earlier server in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
        return True


def free_port() -> int:
    """Return a port on which a server can listen, and hold it until `release` or the end of this process.

    The server must set SO_REUSEADDR before it binds, as nearly all do. Until it listens, connections are refused.
    """
    for _ in range(_TRIES):
        port = random.choice(_CANDIDATES)  # noqa: S311 - only to avoid collisions
        if port not in _held and _hold(port):
            return port
    raise OSError(errno.EADDRINUSE, f"none of {_TRIES} ports tried is free")


def release(port: int) -> None:
    """Stop holding a port of `free_port`. Does nothing for any other port."""
    if holder := _held.pop(port, None):
        holder.close()


def _hold(port: int) -> bool:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without SO_REUSEADDR, so that a port which another process holds is refused.
        holder.bind((_LOCAL, port))
    except OSError as error:
        holder.close()
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        raise
    if _CAN_HOLD:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _held[port] = holder
    else:
        holder.close()
        _held[port] = None
    return True
