"""What every per-sample score shares: the checkpoints of a run, the network, samples, and the pass over them.

`subject` opens network and samples, `epochs` chooses checkpoints, `log` remembers what is finished, `sweep` goes
through checkpoints and samples.
"""

from modeconn_cli.engine.samples.log import Epoch, EpochLog, write_summary
from modeconn_cli.engine.samples.seen import Seen, seen_classes
from modeconn_cli.engine.samples.subject import Subject, chosen_checkpoints, open_subject, series
from modeconn_cli.engine.samples.sweep import Measure, Part, Sweep, write_ids

__all__ = [
    "Epoch", "EpochLog", "Measure", "Part", "Seen", "Subject", "Sweep", "chosen_checkpoints", "open_subject",
    "seen_classes", "series", "write_ids", "write_summary",
]  # fmt: skip
