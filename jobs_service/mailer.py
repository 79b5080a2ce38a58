"""Sending mail: the contract, and its SMTP implementation."""

from email.message import EmailMessage
from typing import Protocol


class Mailer(Protocol):
    """Hands one message to a mail server."""

    def send(self, message: EmailMessage) -> None:
        """Deliver to every recipient in To, Cc and Bcc, or raise."""
