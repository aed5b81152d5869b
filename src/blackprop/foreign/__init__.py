"""Foreign simulators, programs and instruments as devices: a module of PyTorch, a program, a netlist of SPICE, a
quantum circuit, a photonic circuit, and the instruments of PyMeasure, ophyd and slmsuite.

Each function makes a device that a `PhysicalLayer` takes. Other libraries are imported when they are used, and are not
among the requirements of this one.
"""

from blackprop.foreign._module import from_module
from blackprop.foreign._ophyd import from_ophyd
from blackprop.foreign._process import ProcessDevice
from blackprop.foreign._pymeasure import from_pymeasure
from blackprop.foreign._qnode import from_qnode
from blackprop.foreign._sax import from_sax
from blackprop.foreign._slmsuite import from_slmsuite
from blackprop.foreign._spice import from_spice
from blackprop.foreign._subprocess import from_subprocess

__all__ = [
    "ProcessDevice",
    "from_module",
    "from_ophyd",
    "from_pymeasure",
    "from_qnode",
    "from_sax",
    "from_slmsuite",
    "from_spice",
    "from_subprocess",
]
