"""The error of stage 2 whose message is meant for the person at the keyboard."""


class ClassifierError(Exception):
    """Bad input to stage 2: the message is one line that names the file and the mend."""
