"""What a user runs beside train.py.  Each command takes an experiment's folder or a run, and has --help."""
