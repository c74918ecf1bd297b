"""Lets commands under test hear Ctrl-C: what a shell starts in the background, CI's runs among it, has it ignored."""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
