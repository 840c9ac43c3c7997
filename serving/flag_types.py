"""Command-line flags: their types, such as numbers within bounds, and dataclasses whose fields are flags."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any

from twinspire.protos.cli import UsageError


def bounded_count(most: int, least: int = 1) -> Callable[[str], int]:
    """A type of whole numbers.

    Args:
        most: the largest number that it accepts.
        least: the smallest.
    """

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def bounded_seconds(most: float) -> Callable[[str], float]:
    """A type of seconds above 0, and at most `most`."""
    return _number(f"seconds, above 0 and at most {most:g}", lambda value: 0 < value <= most)


def number_up_to(most: float) -> Callable[[str], float]:
    """A type of numbers from 0 to `most`."""
    return _number(f"a number from 0 to {most:g}", lambda value: 0 <= value <= most)


def positive(most: float) -> Callable[[str], float]:
    """A type of numbers above 0, and at most `most`."""
    return _number(f"a number above 0 and at most {most:g}", lambda value: 0 < value <= most)


def _number(expected: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not accepts(value):
            raise ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """A type of some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ArgumentTypeError(f"expected {' or '.join(names)}, got {text!r}")
        return text

    return parse


def host(text: str) -> str:
    """A name or an address to listen on; whether this machine has it is not checked."""
    if not text.isprintable():
        raise ArgumentTypeError(f"expected a name or an address of this machine, got {text!r}")
    return text


def output_file(text: str) -> Path:
    """The path of a file that may be written; folders above it may be missing."""
    path = Path(text)
    above = next((each for each in path.parents if each.exists()), path)
    if path.is_dir() or not above.is_dir():
        raise ArgumentTypeError(f"expected a file in a folder, got {text!r}")
    return path


count = bounded_count(2**31 - 1)
count_or_none = bounded_count(2**31 - 1, least=0)
sequence = bounded_count(2**63 - 1, least=0)
port = bounded_count(65_535, least=0)
share = positive(1.0)
seconds = bounded_seconds(3600.0)
seconds_or_none = _number("seconds, 0 or from 1 to 3600", lambda value: value == 0 or 1 <= value <= 3600)


def option(
    default: Any, help: str, type: Callable[[str], Any] = count, group: str = "", partner: str = ""
) -> Any:
    """A field of a dataclass that is a flag of a command line.

    Args:
        default: of the field.
        help: text of the flag; the default is shown after it, if there is one.
        type: of the flag; of each value of one that is repeatable, whose default is `()`.
        group: of the flags of its dataclass among which the help shows it.
        partner: another field, without whose flag this one has no effect, and is refused.
    """
    return field(default=default, metadata={"help": help, "type": type, "group": group, "partner": partner})


def flag(name: str) -> str:
    """The flag of a field, such as `--max-batch`."""
    return f"--{name.replace('_', '-')}"


def options_of(kind: Any) -> list[Field[Any]]:
    """The fields of a dataclass that are flags."""
    return [each for each in fields(kind) if "help" in each.metadata]


def add_options(parser: Any, kind: type[Any], group: str = "") -> None:
    """Add the flags of a dataclass, those of one of its groups, to a parser or to a group of one."""
    for each in options_of(kind):
        if each.metadata["group"] != group:
            continue
        name = flag(each.name)
        default = None if each.metadata["partner"] else each.default  # None: not given
        if isinstance(each.default, bool):
            parser.add_argument(name, action="store_true", default=default, help=each.metadata["help"])
            continue
        if each.default == ():
            text = f"{each.metadata['help']}; repeatable"
            parser.add_argument(name, type=each.metadata["type"], action="append", help=text)
            continue
        text = each.metadata["help"] + ("" if each.default is None else f" ({each.default})")
        parser.add_argument(name, type=each.metadata["type"], default=default, help=text)


def check_partners(arguments: Namespace, kind: type[Any]) -> None:
    """Refuse flags of a dataclass that have no effect because others are not given.

    Raises:
        UsageError: there is one; the text names both.
    """
    defaults = {each.name: each.default for each in options_of(kind)}

    def is_given(name: str) -> bool:
        return getattr(arguments, name) not in (None, defaults.get(name))

    for each in options_of(kind):
        partner = each.metadata["partner"]
        if partner and getattr(arguments, each.name) is not None and not is_given(partner):
            raise UsageError(f"{flag(each.name)} goes with {flag(partner)}")


def chosen(arguments: Namespace, kind: type[Any]) -> dict[str, Any]:
    """The values of the flags of a dataclass, by field."""
    given = {each: getattr(arguments, each.name) for each in options_of(kind)}
    return {
        each.name: tuple(value or ()) if each.default == () else each.default if value is None else value
        for each, value in given.items()
    }


def check_positive(bounds: Any) -> None:
    """Refuse a dataclass of bounds, which an operator sets, if one is below 1.

    Raises:
        ValueError: a bound is below 1.
    """
    for each in fields(bounds):
        if getattr(bounds, each.name) < 1:
            raise ValueError(f"{each.name}: expected at least 1, got {getattr(bounds, each.name)}")
