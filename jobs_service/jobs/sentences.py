"""The parts of sentences for people: counts, durations, and the beginning of a text."""

#: Characters of an error that a sentence has.
_TEXT_CHARACTERS = 200

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def short(text: str | None) -> str:
    """Return the beginning of a text, on one line and without the full stop of its end."""
    line = " ".join((text or "no error is known").split())
    return (line if len(line) <= _TEXT_CHARACTERS else f"{line[:_TEXT_CHARACTERS]}…").rstrip(".")


def duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit: "1 second", "90 seconds", "12 minutes", "3 hours"."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 2 * size), (1, "second"))
    return count(max(1, round(seconds / size)), unit)


def count(number: int, noun: str) -> str:
    """Return "1 job" or "1,200 jobs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
