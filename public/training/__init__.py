"""Training: the loop, the tasks it is handed, and everything around a run."""

import sys


def main(file: str) -> None:
    """Trains the experiment in whose folder `file` (its train.py) lies.  The command line is that of the process."""
    if not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
        from public.training.help import print_help

        print_help(file)
    from public.training.run import main as run  # here, so that a config.py can import its settings without the rest

    run(file)
