"""Every error that Twinspire raises on purpose.

    TwinspireError
    ├── InvalidInput          a request or a record is wrong: which field, and why
    │   ├── UnknownItem       an item id that the catalogue does not hold
    │   └── UnknownModel      a model, or a version of one, that is not served
    ├── ConfigError           a TOML file is wrong: which file, which key, what was expected
    ├── DataError             a data file is wrong: which file, row and column, what was expected
    ├── BundleError           a bundle cannot be used
    │   ├── BundleDamaged     a file is missing, or is not the one that the manifest describes
    │   ├── BundleTooNew      the manifest's schema is newer than this program
    │   └── BundleTooOld      the manifest's schema is one that this program no longer reads
    ├── MissingStage          a stage has nothing to work on yet: which command comes first
    ├── GateRefused           a measured figure is outside its bound: which, and by how much
    ├── AccessDenied          the service does not serve this caller
    │   ├── NotAuthenticated  it does not know who is calling: no token, or none that it knows
    │   └── NotAuthorised     it knows, and the caller's role does not reach as far
    └── Unavailable           the service cannot answer now; the same request may succeed later
        ├── Overloaded        it has more to do than it bears: when to come back
        │   └── RateLimited   this client asks more often than it may
        └── DeadlineExceeded  it did not answer before the request's deadline

No transport codes live here; `serving/status.py` maps each class to one.
"""


class TwinspireError(Exception):
    """Base of every error raised on purpose; its text is fit to be shown to the person who caused it."""


class InvalidInput(TwinspireError):
    """A request or a record is wrong.

    Args:
        field: the field at fault, as its owner would write it (`query.text`, `k`).
        reason: what was found and what was expected.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class UnknownItem(InvalidInput):
    """An item id that the catalogue does not hold."""


class UnknownModel(InvalidInput):
    """A model, or a version of one, that is not served."""


class ConfigError(TwinspireError):
    """A TOML file is wrong; the text names file and key."""


class DataError(TwinspireError):
    """A data file is wrong; the text names file, row and column."""


class BundleError(TwinspireError):
    """A bundle cannot be used."""


class BundleDamaged(BundleError):
    """A file of a bundle is missing, or is not the one that the manifest describes."""


class BundleTooNew(BundleError):
    """The manifest's schema version is newer than this program understands."""


class BundleTooOld(BundleError):
    """The manifest's schema version is one that this program no longer reads."""


class MissingStage(TwinspireError):
    """A stage has nothing to work on yet; the text says which command comes first."""


class GateRefused(TwinspireError):
    """A measured figure is outside its bound; the text gives figure and bound."""


class AccessDenied(TwinspireError):
    """The service does not serve this caller."""


class NotAuthenticated(AccessDenied):
    """The service does not know who is calling: there is no token, or none that it knows."""


class NotAuthorised(AccessDenied):
    """The service knows who is calling, and the caller's role does not reach as far as what is asked."""


class Unavailable(TwinspireError):
    """The service cannot answer now; the same request may succeed later."""


class Overloaded(Unavailable):
    """The service has more to do than it bears.

    Args:
        text: of what.
        retry_after: seconds after which the same request is worth sending again.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """This client asks more often than it may."""


class DeadlineExceeded(Unavailable):
    """The service did not answer before the request's deadline."""
