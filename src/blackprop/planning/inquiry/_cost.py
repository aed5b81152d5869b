"""The queries of an inquiry."""

from __future__ import annotations

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._probes import spanning_count
from blackprop.core._query import Purpose
from blackprop.planning.inquiry._correlation import PROGRAMMINGS
from blackprop.planning.inquiry._designs import SETTINGS, sketches
from blackprop.planning.inquiry._noise import ROWS
from blackprop.planning.inquiry._sums import COPIES, rows_needed
from blackprop.planning.inquiry._wiring import EARLY, FRESH, codes_needed

READ = 4  # settings that tell elements and rows
LENGTH_ROWS = 32
SETTING_ROWS = 64  # at a setting, at least half as many: few elements show little of the noise, and are read repeatedly


def least(spec: Declaration) -> tuple[int, int]:
    """Return the programmings and rows without which `inquire` makes no queries."""
    if not spec.of_vectors:
        return 1, 2 * ROWS
    return READ + FRESH, COPIES * rows_needed(spec) + (READ + FRESH) * rows_each(spec)


def most(spec: Declaration) -> Ledger:
    """Return an upper bound of the queries of `inquire` for such a device, without those of a `PhaseMask`."""
    found, (programmings, rows) = Ledger(), least(spec)
    if not spec.of_vectors:
        found.programmings[Purpose.CALIBRATE], found.rows[Purpose.CALIBRATE] = programmings, rows
        return found
    count, P = rows_each(spec), spec.theta.size
    if has_rows(spec):
        found.programmings[Purpose.CALIBRATE], found.rows[Purpose.CALIBRATE] = programmings + 1, rows + count
        return found
    codes = codes_needed(P) if spec.d_in * spec.d_out == P else 0
    early = EARLY * bool(codes) + SETTINGS * len(sketches(spec))
    wired = (codes + FRESH) * bool(codes)
    found.programmings[Purpose.CALIBRATE] = programmings + FRESH + 1 + max(wired, early + PROGRAMMINGS)
    length = 2 * LENGTH_ROWS * PROGRAMMINGS
    found.rows[Purpose.CALIBRATE] = rows + (FRESH + 1) * count + max(wired * count, early * count + length)
    return found


def has_rows(spec: Declaration) -> bool:
    """Whether each output is declared to have a block of parameters: whether they are elements remains to be asked."""
    return spec.coupling is Coupling.ROW and spec.theta.size % spec.d_out == 0


def copies_of(spec: Declaration) -> int:
    """How often the rows are read at each setting."""
    return max(1, SETTING_ROWS // spanning_count(spec))


def zeros_of(spec: Declaration) -> int:
    """How often the row 0 is sent at each setting."""
    return int(spec.x_range[0] <= 0 <= spec.x_range[1])


def rows_each(spec: Declaration) -> int:
    """How many rows are sent at each setting."""
    return copies_of(spec) * spanning_count(spec) + zeros_of(spec)
