"""Where jobs put the files they make: the contract, and the local directory."""

from typing import Protocol


class OutputStore(Protocol):
    """Keeps whole files under short names. A name that exists is always complete."""

    def write(self, name: str, content: bytes) -> str:
        """Store `content` under `name`, replacing an earlier file, and return its reference ("output/<name>")."""
