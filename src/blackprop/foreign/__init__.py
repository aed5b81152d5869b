"""Foreign simulators and programs as devices: a module of PyTorch, a program, a netlist of SPICE, a quantum circuit.

Each function makes a device that a `PhysicalLayer` takes. Other libraries are imported when they are used, and are not
among the requirements of this one.
"""

from blackprop.foreign._module import from_module
from blackprop.foreign._process import ProcessDevice
from blackprop.foreign._qnode import from_qnode
from blackprop.foreign._spice import from_spice
from blackprop.foreign._subprocess import from_subprocess

__all__ = [
    "ProcessDevice",
    "from_module",
    "from_qnode",
    "from_spice",
    "from_subprocess",
]
