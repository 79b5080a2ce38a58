"""Numbers as Grafana writes them: 0.0042 s is 4.2 ms, and 0.25 as a percentunit is 25 %."""

#: The steps of a unit from the largest: what one is worth, and its name. The last is for everything below, too.
_STEPS = {
    "s": ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")),
    "ms": ((60_000, "min"), (1_000, "s"), (1, "ms")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "percentunit": ((0.01, "%"),),
    "short": ((1e6, "Mil"), (1e3, "K"), (1, "")),
    "ops": ((1e3, "K ops/s"), (1, "ops/s")),
    "reqps": ((1e3, "K req/s"), (1, "req/s")),
    "cps": ((1, "c/s"),),
    "none": ((1, ""),),
}


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """Return the value with its unit; without `decimals`, with the two or three digits that matter."""
    steps = _STEPS[unit]
    worth, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    if value == 0 and unit == "s":
        worth, name = 1, "s"
    return f"{_digits(value / worth, decimals)} {name}".rstrip()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    text = f"{value:.3g}" if abs(value) < 1_000 else f"{value:.0f}"  # noqa: PLR2004 - beyond, .3g writes an exponent
    return f"{float(text):g}"
