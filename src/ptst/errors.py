"""What a user can mend: raised with what is wrong, where, and what would be right."""


class PtstError(Exception):
    """The base of every error that is printed as one message, without a traceback."""


class ConfigError(PtstError):
    """The composed configuration is wrong: raised before anything runs."""


class DataError(PtstError):
    """A file or data set cannot be used: names the file, the row and the column."""


class Interrupted(BaseException):
    """Work was asked to stop and did, at a point where nothing is lost: run again to resume.

    Not an `Exception`, as KeyboardInterrupt is none: nothing has failed, and nothing must record that.
    """


class TemplateError(PtstError):
    """A template cannot make prompts, or a prompt cannot be spelled for this model."""
