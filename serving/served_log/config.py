"""The configuration of the served log, and of exploration, which needs it."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from twinspire.protos.errors import ConfigError
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.serving import flag_types as flags
from twinspire.serving.flag_types import option

HASHED, RAW = "hashed", "raw"
LOCK = ".lock"  # name of the file that the service locks


@dataclass(frozen=True)
class ServedLogConfig:
    """Which answers are kept, where, and for how long; and the share of them that is explored.

    Args:
        folder: of the files.

    Raises:
        ValueError: more answers would be explored than the log takes.
    """

    folder: Path
    served_log_share: float = option(
        0.1, "share of the answers that the log takes", flags.share, partner="served_log"
    )
    served_log_flush_seconds: float = option(
        30.0, "seconds after which an answer is in a file", flags.seconds, partner="served_log"
    )
    served_log_max_days: int = option(
        30, "days for which answers are kept", flags.bounded_count(36_500), partner="served_log"
    )
    served_log_max_bytes: int = option(
        10 << 30, "bytes of all files; the oldest are deleted", flags.sequence, partner="served_log"
    )
    served_log_users: str = option(
        HASHED,
        f"users as digests, {HASHED}, or as their keys, {RAW}",
        flags.one_of(HASHED, RAW),
        partner="served_log",
    )
    served_log_texts: bool = option(False, "write the texts of queries, too", partner="served_log")
    explore_share: float | None = option(
        None,
        "share of all answers that draw the order of their best items by chance",
        flags.share,
        partner="served_log",
    )
    explore_top: int = option(
        20,
        "best items of which the order is drawn",
        flags.bounded_count(1000, least=2),
        partner="explore_share",
    )
    explore_temperature: float | None = option(
        None,
        "of the draw, in units of the score (a tenth of the span of the scores drawn from)",
        flags.positive(1e6),
        partner="explore_share",
    )

    def __post_init__(self) -> None:
        if (self.explore_share or 0.0) > self.served_log_share:
            raise ValueError(
                f"explore_share: expected at most --served-log-share {self.served_log_share:g}, because an "
                f"answer that is explored has to be in the log, got {self.explore_share:g}"
            )


def reserve(folder: Path) -> ExitStack:
    """Make the folder of a log, for its owner alone, and keep other services from it.

    Returns:
        What keeps them from it until it is closed.

    Raises:
        ConfigError: it cannot be made, or another service writes its log there.
    """
    held = ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        busy = ConfigError(
            f"--served-log {folder}: another service writes its log there; name another folder"
        )
        held.enter_context(exclusive_lock(folder / LOCK, busy))
    except OSError as error:
        raise ConfigError(f"--served-log {folder}: cannot be written: {error.strerror}") from None
    return held
