"""The errors whose messages are meant for the person at the keyboard."""

from stage1_faces.errors import FacesError
from stage2_classifier.errors import ClassifierError


class PipelineError(Exception):
    """Bad input to the pipeline: the message is one line that names the file and the mend."""


USER_ERRORS = (PipelineError, FacesError, ClassifierError)
