"""The errors a user can cause. Each message says what came, what is allowed, and what to do."""


class RoadworkError(Exception):
    """Base of every error that the command line prints without a stack trace."""


class ConfigError(RoadworkError, ValueError):
    """A configuration key or value that cannot be used."""


class DataError(RoadworkError, ValueError):
    """A dataset, labels file, image or coordinate that cannot be used."""


class SplitError(RoadworkError, ValueError):
    """A splits file that does not fit its data, or data that cannot be split as asked."""


class WiringError(RoadworkError, RuntimeError):
    """A part that was asked for and was seen not to work."""


class DivergedError(RoadworkError, ArithmeticError):
    """A run whose loss, gradients or weights are not finite any more."""


class MachineError(RoadworkError, OSError):
    """The machine lacks what a run needs: room on its disk, a process that lives."""


class RunStoppedError(RoadworkError):
    """A run was asked to stop by a signal, and has saved what it had.

    Attributes:
        exit_code: 128 + the signal's number, as shells have it.
        way_on: the option or command that goes on with it.
    """

    way_on = "--resume"

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class MissingExtraError(RoadworkError, ImportError):
    """An optional package is needed; the message names the exact install command."""
