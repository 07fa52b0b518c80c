"""The command line, a file for each group of commands; what they do is the library's.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 2 what the user can put
right (one line says what), 1 a fault of ours. PyTorch and the models are imported inside the commands, so
that help and mistakes in the command line answer at once.
"""

import gc


def main() -> None:
    """Entry point of the console script and of `python -m tofc`."""
    # What imports make stays: to look for garbage in it takes a twentieth of a short command's time.
    gc.disable()
    from tofc.cli.app import run

    run()
