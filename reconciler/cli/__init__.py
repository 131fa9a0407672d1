"""The command line.

Importing makes many objects and hardly any garbage: with Python's own threshold, looking for it takes an eighth of the
time in which a command starts.
"""

import gc

STARTING = 50_000  # objects made until the next look for garbage
RUNNING = 5_000  # the same in the daemon, which also leaves out what it has imported

gc.set_threshold(STARTING)
