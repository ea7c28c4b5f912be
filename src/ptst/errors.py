"""What a user can mend: raised with what is wrong, where, and what would be right."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ptst.redact import redacted

LONGEST_REASON = 300
"""Characters of another library's error. The whole of it is chained."""


class PtstError(Exception):
    """The base of every error that is printed as one message, without a traceback or a secret."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redacted(a) if isinstance(a, str) else a for a in args))


class ConfigError(PtstError):
    """The composed configuration is wrong: raised before anything runs."""


class DataError(PtstError):
    """A file or data set cannot be used: names the file, the row and the column."""


class Interrupted(BaseException):
    """Work was asked to stop and did, at a point where nothing is lost: run again to resume.

    Not an `Exception`, as KeyboardInterrupt is none: nothing has failed, and nothing must record
    that.
    """


class Busy(Interrupted):
    """Another process makes it just now, and whoever asked has something else to do meanwhile."""


class TemplateError(PtstError):
    """A template cannot make prompts, or a prompt cannot be spelled for this model."""


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Say what a library refuses as "<what>: <its reason>", in one line.

    Raises:
        PtstError: the body raised one of the errors by which libraries refuse their arguments or
            files.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, a RuntimeError: nothing is wrong
            raise
        reason = redacted(" ".join(str(error).split())) or type(error).__name__
        if len(reason) > LONGEST_REASON:
            reason = f"{reason[:LONGEST_REASON]}..."
        raise PtstError(f"{what}: {reason}") from error
