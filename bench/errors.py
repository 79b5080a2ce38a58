"""What can go wrong in a run."""


class Failed(Exception):
    """A program did not do what the benchmark needs. The text says what, and ends with its log."""
