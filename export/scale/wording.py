"""Figures as people read them."""

MINUTE, HOUR, DAY = 60, 3600, 86_400


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    unit, name = (HOUR, "h") if seconds < 2 * DAY else (DAY, "days")
    return f"{float(f'{seconds / unit:.2g}'):,g} {name}"


def size(bytes_: float) -> str:
    """Bytes in megabytes or gigabytes (10^6, 10^9)."""
    if bytes_ < 1e9:
        return f"{bytes_ / 1e6:.1f} MB" if bytes_ < 1e7 else f"{bytes_ / 1e6:,.0f} MB"
    return f"{bytes_ / 1e9:,.2f} GB" if bytes_ < 1e11 else f"{bytes_ / 1e9:,.0f} GB"


def about(items: float) -> str:
    """A number of items to two digits, as more would not be true."""
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if items >= unit:
            return f"{float(f'{items / unit:.2g}'):,g}{name}"
    return f"{float(f'{items:.2g}'):,.0f}"


def milliseconds(micro: float) -> str:
    """Microseconds as milliseconds, with two digits or three."""
    digits = 3 if micro < 100 else 2 if micro < 10_000 else 1 if micro < 100_000 else 0
    return f"{micro / 1000:,.{digits}f}"


def share(part: float) -> str:
    """A share as a percentage of up to two digits."""
    return f"{float(f'{100 * part:.2g}'):g} %"
