"""Errors that a user can fix. Each message gives the bad value, what is allowed, and what to do."""


class RoadworkError(Exception):
    """Base of every error that the command line prints without a stack trace."""


class ConfigError(RoadworkError, ValueError):
    """A configuration key or value that cannot be used."""


class DataError(RoadworkError, ValueError):
    """A dataset, labels file, image or coordinate that cannot be used."""


class SplitError(RoadworkError, ValueError):
    """A splits file that does not fit its data, or data that cannot be split as asked."""


class WiringError(RoadworkError, RuntimeError):
    """A configured component that does not work."""


class DivergedError(RoadworkError, ArithmeticError):
    """A run whose loss, gradients or weights are no longer finite."""


class MachineError(RoadworkError, OSError):
    """The machine lacks disk space, or a process of the run has ended."""


class RunStoppedError(RoadworkError):
    """A signal stopped a run, which has saved its state.

    Attributes:
        exit_code: 128 + the signal's number, as in shells.
        way_on: the option or command that resumes the run.
    """

    way_on = "--resume"

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class MissingExtraError(RoadworkError, ImportError):
    """An optional package is missing; the message has its install command."""
