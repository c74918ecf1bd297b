"""Settings of all tests: Ctrl-C is handled, and property tests have no deadline."""

import signal

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
# Processes that a shell starts in the background, such as in CI, ignore SIGINT.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
