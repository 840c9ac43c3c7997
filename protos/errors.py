"""Every error that Twinspire raises deliberately.

    TwinspireError
    ├── InvalidInput          a request or a record is wrong; the text names the field
    │   └── UnknownItem       an item id that is not in the catalogue
    ├── ConfigError           a TOML file is wrong; the text names file and key
    ├── DataError             a data file is wrong; the text names file, row and column
    ├── BundleError           a bundle cannot be used
    │   ├── BundleDamaged     a file is missing, or differs from its record in the manifest
    │   ├── BundleTooNew      the manifest's schema is newer than this program
    │   ├── BundleTooOld      this program no longer reads the manifest's schema
    │   └── PackageMissing    it needs a Python package that is not installed; the text names the extra
    ├── MissingStage          the input of a stage does not exist yet; the text names the command to run
    ├── GateRefused           a measured figure is outside its bound; the text has both
    ├── WriteRefused          an item was not written, because its condition does not hold
    ├── AccessDenied          the service refuses this caller
    │   ├── NotAuthenticated  the caller sent no token, or an unknown one
    │   └── NotAuthorised     the caller's role does not allow the call
    └── Unavailable           the service cannot answer now; the same request may succeed later
        ├── ConnectionFailed  there is no connection to the service; has the fault
        ├── Overloaded        the service is over capacity; has the seconds until a retry
        │   └── RateLimited   this client exceeds its rate limit
        └── DeadlineExceeded  the service did not answer before the request's deadline

`serving/wire/status.py` maps each class to a gRPC status code.
"""


class TwinspireError(Exception):
    """Base of all of them; its text can be shown to the user.

    Attributes:
        request_id: of a write that a client of the service has sent and that failed: the write is not carried
            out twice if it is repeated with this id. Empty for all else.
    """

    request_id = ""

    def __reduce__(self) -> tuple[object, ...]:
        """How it is pickled for another process, whatever its class takes."""
        return BaseException.__new__, (type(self), *self.args), self.__dict__


class InvalidInput(TwinspireError):
    """A request or a record is wrong.

    Args:
        field: the field, as the user writes it (`query.text`, `k`).
        reason: what was expected and what was found.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class UnknownItem(InvalidInput):
    """An item id that is not in the catalogue."""


class ConfigError(TwinspireError):
    """A TOML file is wrong; the text names file and key."""


class DataError(TwinspireError):
    """A data file is wrong; the text names file, row and column."""


class BundleError(TwinspireError):
    """A bundle cannot be used."""


class BundleDamaged(BundleError):
    """A file of a bundle is missing, or differs from its record in the manifest."""


class BundleTooNew(BundleError):
    """The manifest's schema version is newer than this program."""


class BundleTooOld(BundleError):
    """This program no longer reads the manifest's schema version."""


class PackageMissing(BundleError):
    """A bundle or an option needs a package that is not installed; the text says how to install it."""


class MissingStage(TwinspireError):
    """The input of a stage does not exist yet; the text names the command to run."""


class GateRefused(TwinspireError):
    """A measured figure is outside its bound; the text has both."""


class WriteRefused(TwinspireError):
    """Items of a write were not written, because their conditions do not hold; the other items were.

    Args:
        text: how many, and why the first was not.
        written: the results of all items (`serving.client.items.Written`).
    """

    def __init__(self, text: str, written: object = None) -> None:
        super().__init__(text)
        self.written = written


class AccessDenied(TwinspireError):
    """The service refuses this caller."""


class NotAuthenticated(AccessDenied):
    """The caller sent no token, or an unknown one."""


class NotAuthorised(AccessDenied):
    """The caller is known, but its role does not allow the call."""


class Unavailable(TwinspireError):
    """The service cannot answer now; the same request may succeed later."""


class ConnectionFailed(Unavailable):
    """There is no connection to the service.

    Args:
        text: the address, and what is wrong.
        fault: one of `serving.client.failures.ConnectionFault`.
    """

    def __init__(self, text: str, fault: str) -> None:
        super().__init__(text)
        self.fault = fault


class Overloaded(Unavailable):
    """The service is over capacity.

    Args:
        text: which limit was reached.
        retry_after: seconds after which to send the request again; infinite if only an operator can help.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """This client exceeds its rate limit."""


class DeadlineExceeded(Unavailable):
    """The service did not answer before the request's deadline."""
