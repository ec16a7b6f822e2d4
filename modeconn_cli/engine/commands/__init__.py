"""One module or folder per command, named as the user types it: its result, and `run(settings, runtime)`."""
