"""Following a training in any loop or framework: records on disk, numbers in its log, and a stop at a budget.

`RunMonitor` writes a run folder, which `blackprop watch` follows while it grows and `blackprop report` reads. Lightning
and transformers are imported when their callback is made.
"""

from blackprop.monitoring._monitor import RunMonitor

__all__ = ["RunMonitor"]
