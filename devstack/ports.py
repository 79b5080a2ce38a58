"""Ports of this machine: which are free, and one to use that stays free for it."""

import errno
import random
import socket
import sys

#: Below the range from which kernels number outgoing connections, so none of those can take a port we chose.
_CANDIDATES = range(20_000, 32_000)
_TRIES = 200
_LOCAL = "127.0.0.1"
#: Where a bound socket that does not listen leaves room for a server, if both set SO_REUSEADDR. Others refuse it.
_CAN_HOLD = sys.platform == "linux"

#: What holds each port that was handed out. None where only its number is remembered.
_held: dict[int, socket.socket | None] = {}


def is_free(port: int, host: str = _LOCAL) -> bool:
    """Say whether a server could listen there now. It can where `free_port` holds the port for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier server that the kernel still remembers are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
        return True


def free_port() -> int:
    """Return a port that no other process gets until `release` or the end of this one, but a server can listen on.

    The server must set SO_REUSEADDR before it binds, as nearly all do. Until it listens connections are refused.
    """
    for _ in range(_TRIES):
        port = random.choice(_CANDIDATES)  # noqa: S311 - only to keep out of others' way
        if port not in _held and _hold(port):
            return port
    raise OSError(errno.EADDRINUSE, f"none of {_TRIES} ports tried is free")


def release(port: int) -> None:
    """Let others have a port of `free_port`. Does nothing for any other port."""
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
