"""Training: the loop, the tasks it is handed, and everything around a run."""


def main(file: str) -> None:
    """Trains the experiment in whose folder `file` (its train.py) lies.  The command line is that of the process."""
    from public.training.run import main as run  # here, so that a config.py can import its settings without the rest

    run(file)
