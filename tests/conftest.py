"""What holds for all tests: commands hear Ctrl-C, and a busy machine is no failure of a property."""

import signal

from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
# What a shell starts in the background, CI's runs among it, has it ignored.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
