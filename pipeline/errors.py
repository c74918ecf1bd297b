"""The errors whose messages are meant for the person at the keyboard."""

from stage1_faces.errors import FacesError
from stage2_classifier.errors import ClassifierError


class PipelineError(Exception):
    """Bad input to the pipeline: the message is one line that names the file and the mend."""


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line; its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


USER_ERRORS = (PipelineError, FacesError, ClassifierError)
