"""The error of stage 1 whose message is meant for the person at the keyboard."""


class FacesError(Exception):
    """Bad input to stage 1: the message is one line that names the file and the mend."""
