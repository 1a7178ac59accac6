"""Every error that a user can cause or meet, one hierarchy.

ReasonError
|- ConfigurationError   an option or setting is wrong, or two of them conflict
|- DataError            a data set folder, a mask or a list of images is not as documented
|- ImageError           one image cannot be read, or is refused (size, type)
|- BundleError          a bundle is missing, changed, of another version, or does not fit
|- BackendError         an inference library is missing, refuses the model, or fails while running
|- SourceError          a camera, a stream or a file gives no frames
|- SinkError            results cannot be handed to a file, a broker or a PLC
|- RunError             a training run folder or a checkpoint is missing or does not fit
|- TrainingError        training cannot go on (non-finite loss)
`- ParityError          an exported artefact does not give what the trained model gives

A message is one sentence that says what (with its path), what was found, what was expected and what to do.
"""


class ReasonError(Exception):
    """Something the user can mend; commands print it in one line and exit 1."""


class ConfigurationError(ReasonError):
    """An option or setting is wrong, or two of them conflict."""


class DataError(ReasonError):
    """A data set folder, a mask or a list of images is not as documented."""


class ImageError(ReasonError):
    """One image cannot be read, or is refused for its size or type."""


class BundleError(ReasonError):
    """A bundle is missing, changed, of another format version, or does not fit this use."""


class BackendError(ReasonError):
    """An inference library is missing, refuses the model, or failed while running it."""


class SourceError(ReasonError):
    """A camera, a stream or a file gives no frames; a live one may come back."""


class SinkError(ReasonError):
    """Results cannot be handed on at the moment: disk full, broker or port not there."""


class RunError(ReasonError):
    """A training run folder or a checkpoint is missing, incomplete or does not fit."""


class TrainingError(ReasonError):
    """Training cannot go on, for example because the loss is no longer finite."""


class ParityError(ReasonError):
    """An exported artefact does not give what the trained model gives."""
