"""The error of a benchmark run."""


class Failed(Exception):
    """A program did not work as the benchmark needs. The text says how, and ends with the program's log."""
