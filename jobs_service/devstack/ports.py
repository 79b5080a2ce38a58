"""Ports of this machine: which are free, and one to use."""

import errno
import random
import socket

#: Below the range from which kernels number outgoing connections, so none of those can take a port we chose.
_CANDIDATES = range(20_000, 32_000)
_TRIES = 200
_LOCAL = "127.0.0.1"

_handed_out: set[int] = set()


def is_free(port: int, host: str = _LOCAL) -> bool:
    """Say whether a server could listen there now."""
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
    """Return a free port, never the same one twice in this process."""
    for _ in range(_TRIES):
        port = random.choice(_CANDIDATES)  # noqa: S311 - only to keep out of others' way
        if port not in _handed_out and is_free(port):
            _handed_out.add(port)
            return port
    raise OSError(errno.EADDRINUSE, f"none of {_TRIES} ports tried is free")
