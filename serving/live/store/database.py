"""The databases of stores: their URLs and connections, and errors that clients may read.

The texts of the errors of a store that is open, or is opened, have no hosts, users and folders.
"""

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from twinspire.protos.errors import ConfigError, TwinspireError, Unavailable

FILES = "twinspire_files"  # key of a connection's `info`: path -> device and number of the file
APPLICATION_ID = 0x5477696E  # of our SQLite files: "Twin"
LOGS = ("-wal", "-shm")  # ends of the names of the files that SQLite keeps beside a database
BUSY_SECONDS = 5.0  # to wait for another process that writes
# Of PostgreSQL. A host that is gone, or that hangs in a transaction, must not block the others.
CONNECT_SECONDS = 5
LOCK_SECONDS = 5
STATEMENT_SECONDS = 8
IDLE_SECONDS = 15  # of a transaction between two statements
CATALOGUE, EVENTS = "catalogue", "events"  # kinds of stores
STORES = {CATALOGUE: "the catalogue's store", EVENTS: "the store of events"}  # as errors name them
DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}


def parsed_url(url: str, kind: str = CATALOGUE) -> URL:
    """The URL of a store, with the driver that this program uses.

    Args:
        kind: of the store, for errors.

    Raises:
        ConfigError: it is not one.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):  # the second of a port that is no number
        parsed = None
    if parsed is None or not url.isprintable():  # no control characters, and no lone surrogates
        raise ConfigError(f"{kind}: expected a URL such as sqlite:///items.db")
    name, _, driver = parsed.drivername.partition("+")
    if name not in DRIVERS:
        raise ConfigError(f"{kind}: expected a URL of sqlite or postgresql, got one of {name}")
    if driver not in ("", DRIVERS[name]):
        raise ConfigError(f"{kind}: expected a URL that begins with {name}://, got {name}+{driver}://")
    is_file = parsed.database not in (None, "", ":memory:") and not parsed.query and not parsed.host
    if name == "sqlite" and not is_file:  # a parameter may keep the database in memory
        raise ConfigError(f"{kind}: expected a file, such as sqlite:///items.db, without host and parameters")
    return parsed.set(drivername=f"{name}+{DRIVERS[name]}")


def is_missing(url: str, kind: str = CATALOGUE) -> bool:
    """Whether the URL of a kind of store names a file of SQLite that does not exist.

    Raises:
        ConfigError: as `parsed_url`; or the folder cannot be entered.
    """
    parsed = parsed_url(url, kind)
    return parsed.get_backend_name() == "sqlite" and _size(parsed, kind) is None


def file_of(url: str, kind: str = CATALOGUE) -> Path:
    """The file of a kind of store in SQLite, without symbolic links.

    Raises:
        ConfigError: as `parsed_url`; or the store is in another database.
    """
    parsed = parsed_url(url, kind)
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError(
            f"{kind}: expected a file of SQLite, got {parsed.get_backend_name()}, which has its own tools"
        )
    return Path(parsed.database or "").resolve()


def copy_file(source: Path, output: Path) -> tuple[str, int]:
    """Copy a store in SQLite, as it is now, with what its log holds; it may be written to meanwhile.

    The same users may read the copy.

    Returns:
        Id and sequence of the copy.

    Raises:
        ConfigError: it is not a store, is damaged, or cannot be copied.
    """
    if output.exists() and output.samefile(source):
        raise ConfigError(f"{output}: is the store itself; name another file for the copy")
    try:
        with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
            draft = Path(folder) / output.name
            with closing(sqlite3.connect(source)) as store, closing(sqlite3.connect(draft)) as copy:
                store.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # so it can be read where no log can be written
                (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok" or copy.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                    raise ConfigError(f"{source}: is not a catalogue, or is damaged ({found})")
                store_id, sequence = copy.execute("SELECT store_id, sequence FROM twinspire_meta").fetchone()
            shutil.copymode(source, draft)
            draft.replace(output)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"{source}: cannot be copied to {output}: {error}") from None
    return store_id, sequence


def replace_file(path: Path, draft: Path) -> None:
    """Put a file in the place of a store in SQLite, which is kept as `<name>.before-restore`.

    Raises:
        ConfigError: a process uses the store, or its log cannot be read.
        OSError: the disk does not take it; the store is as before.
    """
    try:
        if path.exists():
            with closing(sqlite3.connect(path)) as store:
                store.execute("PRAGMA journal_mode = DELETE")  # writes what the log holds to the file
            shutil.copymode(path, draft)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise ConfigError(
                f"{path}: cannot be replaced: {error}; stop the services that use it, and try again"
            ) from None
    kept = path.with_name(f"{path.name}.before-restore")
    for suffix in ("", *LOGS):
        kept.with_name(kept.name + suffix).unlink(missing_ok=True)
    if path.exists():
        kept.hardlink_to(path)  # so there is a store at each moment
    for suffix in LOGS:  # of a damaged store
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    draft.replace(path)


def _size(url: URL, kind: str) -> int | None:
    """Bytes of a file of SQLite with a store of a kind; None if there is none.

    Raises:
        ConfigError: this cannot be known, as where the folder may not be entered.
    """
    try:
        return Path(url.database or "").stat().st_size
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no name of a file
        return None
    except OSError as error:
        raise ConfigError(f"{STORES[kind]} cannot be opened: {error.strerror}") from None


class Database:
    """The connections of a store. For one thread, and not to be used across a fork.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/database`.
        kind: of the store, for errors.
        create: whether to make a file of SQLite if there is none.

    Attributes:
        name: in errors, which clients may read.
        dialect: `sqlite` or `postgresql`.

    Raises:
        ConfigError: the URL is not one of these, or the driver is not installed.
        Unavailable: there is no file, and none is to be made.
    """

    def __init__(self, url: str, kind: str, create: bool = True) -> None:
        parsed = parsed_url(url, kind)
        self.name, self.dialect, self._kind = STORES[kind], parsed.get_backend_name(), kind
        if not create and is_missing(url, kind):
            raise Unavailable(f"{self.name} is missing; put it back, or restart the service to begin anew")
        self._engine = engine_of(parsed, kind)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def prepare(self, make: Callable[[Connection], None], check: bool = False) -> None:
        """Check the database, and create what is missing; closes all connections if that fails.

        Args:
            make: creates missing tables, within a transaction.
            check: whether to look for damage in a file of SQLite, which reads all of it.

        Raises:
            ConfigError: the database is not a store, or is damaged.
            Unavailable: it does not answer.
        """
        try:
            if self.dialect == "sqlite":
                self._check_file(check)
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=True)
                with connection.begin():
                    if self.dialect == "postgresql":  # two services may begin at once
                        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(APPLICATION_ID)))
                    elif connection.exec_driver_sql("PRAGMA application_id").scalar_one() != APPLICATION_ID:
                        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                    make(connection)
        except SQLAlchemyError as error:
            self.close()
            is_damage = any(text in str(error) for text in ("not a database", "malformed"))
            raised: type[TwinspireError] = ConfigError if is_damage else Unavailable
            raise raised(f"{self.name} cannot be opened now: {driver_reason(error)}") from error
        except BaseException:
            self.close()
            raise

    def _check_file(self, check: bool) -> None:
        """Refuse a file that another program made, or that is damaged, before anything is written to it.

        Raises:
            ConfigError: it is not a store's, is damaged, or is in a folder that cannot be entered.
            DBAPIError: it is not a database, or cannot be read.
        """
        if not _size(self._engine.url, self._kind):
            return
        # Without the listeners of `engine_of`, which would write to the file.
        plain = sa.create_engine(self._engine.url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
        with plain.connect() as connection:
            application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
            if application != APPLICATION_ID and tables:
                raise ConfigError(f"{self.name} is a database of another program; name another file")
            if check and (found := connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()) != "ok":
                raise ConfigError(f"{self.name} is damaged ({found}); restore a copy, or try .recover")

    def check_version(self, found: int, expected: int) -> None:
        """Raise ConfigError for tables of another version."""
        if found != expected:
            raise ConfigError(f"{self.name} is of version {found}, this program expects {expected}")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose statements see one state each.

        Raises:
            Unavailable: the database cannot be read now.
        """
        with self._errors("read"), self._engine.connect() as connection:
            self._check_open_files(connection)
            yield connection

    def raw_connection(self) -> Any:
        """A connection whose `driver_connection` commits each statement by itself.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._errors("read"):
            connection: Any = self._engine.raw_connection()
        if self.dialect == "postgresql":  # SQLite's do so already
            connection.driver_connection.autocommit = True
        return connection

    @contextmanager
    def one_state(self) -> Iterator[Connection]:
        """A connection whose statements all see the same state; errors as of `reading`."""
        with self._errors("read"), self._engine.connect() as connection:
            if self.dialect == "postgresql":  # SQLite's transactions are snapshots
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                self._check_open_files(connection)
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that waits for all others which write; committed unless the block raises.

        Raises:
            Unavailable: the database cannot be written now.
        """
        with self._errors("written"), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                self._check_open_files(connection)
                yield connection
            self._check_open_files(connection)  # again: nothing may be acknowledged that went elsewhere

    def shorten_log(self) -> bool:
        """Empty SQLite's log, unless another process reads the store now; returns whether none is left.

        Raises:
            Unavailable: the database cannot be written now.
        """
        if self.dialect != "sqlite":
            return True
        with self._errors("written"), self._engine.connect() as connection:
            # It would keep writers waiting for as long as it waits for a reader.
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            is_busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        return not is_busy

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """Raise `Unavailable` for errors of the database; the verb, such as `read`, says what failed."""
        try:
            yield
        except SQLAlchemyError as error:
            raise Unavailable(f"{self.name} cannot be {verb} now: {driver_reason(error)}") from error

    def _check_open_files(self, connection: Connection) -> None:
        """Raises `Unavailable` if a file of SQLite was moved, removed or replaced since it was opened."""
        for path, known in connection.info.get(FILES, {}).items():
            if _file(path) != known:
                raise Unavailable(
                    f"{self.name} was moved, removed or replaced while it was in use, so a write to it would "
                    "be lost; put it back, or restart the service"
                )


def engine_of(url: URL, kind: str = CATALOGUE) -> Engine:
    """The engine of a store. Of SQLite it makes the folder; of PostgreSQL it replaces broken connections.

    Its errors do not show the values of statements, because logs must not have the keys of users.

    Raises:
        ConfigError: the folder cannot be made, or the driver of PostgreSQL is not installed.
    """
    if url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made for the {kind}: {error.strerror}") from None
        engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
        event.listen(
            engine, "connect", lambda connection, record: _on_sqlite(connection, record, str(url.database))
        )
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = sa.create_engine(
            url,
            hide_parameters=True,
            pool_size=1,
            max_overflow=1,
            pool_pre_ping=True,
            # Whatever the database's default is: at a higher level PostgreSQL refuses a write that has waited
            # for another one.
            isolation_level="READ COMMITTED",
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "tcp_user_timeout": STATEMENT_SECONDS * 1000,
                "keepalives_idle": STATEMENT_SECONDS // 2,
                "keepalives_interval": 1,
                "keepalives_count": STATEMENT_SECONDS // 2,
            },
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{kind}: PostgreSQL needs {error.name}; install it with: pip install 'psycopg[binary]'"
        ) from None
    except (ArgumentError, ValueError, TypeError) as error:  # of a parameter of the URL
        raise ConfigError(f"{kind}: {error}") from None
    event.listen(engine, "connect", _on_postgresql)
    return engine


def _on_sqlite(connection: Any, record: Any, name: str) -> None:
    connection.isolation_level = None  # the driver begins no transaction; `_begin_sqlite` does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {int(BUSY_SECONDS * 1000)}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the log
    record.info[FILES] = {path: found for each in ("", *LOGS) if (found := _file(path := name + each))}


def _file(path: str) -> tuple[int, int] | None:
    """Which file a path leads to; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast, and each commit does it six times
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _begin_sqlite(connection: Connection) -> None:
    # A write takes its lock at once: a transaction that reads first could not get it after another's commit.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _on_postgresql(connection: Any, record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] in ("off", "local"):  # a commit could be lost
            cursor.execute("SET synchronous_commit = on")
        for name, seconds in (
            ("lock_timeout", LOCK_SECONDS),
            ("statement_timeout", STATEMENT_SECONDS),
            ("idle_in_transaction_session_timeout", IDLE_SECONDS),
        ):
            cursor.execute(f"SET {name} = '{seconds}s'")
    connection.commit()


@contextmanager
def operator_errors(url: str, kind: str) -> Iterator[None]:
    """Adds to the errors of a store what only operators may read: its URL, and the database's own words."""
    try:
        yield
    except (ConfigError, Unavailable) as error:
        shown = parsed_url(url, kind).render_as_string(hide_password=True)
        raise type(error)(f"{shown}: {error}{detail(error)}") from error.__cause__


def detail(error: Exception) -> str:
    """The database's own words for an error, for the log, without the statement and its values."""
    cause: object = getattr(error.__cause__, "orig", None) or error.__cause__
    words = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)  # of PostgreSQL
    line = " ".join(words.split())[:200]
    return f" ({line})" if cause is not None and line not in str(error) else ""


def driver_reason(error: Exception) -> str:
    """What went wrong, from an error of a driver or of SQLAlchemy.

    It lacks the words of PostgreSQL, which name its host and its user.
    """
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        return str(cause)
    if getattr(cause, "sqlstate", None) is None:
        return "the database does not answer"
    return " ".join(re.findall("[A-Z][a-z]*", type(cause).__name__)).lower()  # such as DiskFull
