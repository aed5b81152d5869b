"""Real devices: instruments, network access, guards, checks and farms."""

from blackprop.lab.farm._farm import Farm
from blackprop.lab.farm._pulsed_farm import PulsedFarm
from blackprop.lab.farm._ray_farm import RayDevice, ray_members
from blackprop.lab.instruments._camera import Camera, CameraModulator, Modulator
from blackprop.lab.instruments._instrument import Instrument
from blackprop.lab.instruments._pixels import Gamma, Region
from blackprop.lab.instruments._qcodes import QcodesDevice
from blackprop.lab.instruments._scpi import Channels, Readings
from blackprop.lab.instruments._visa import VisaDevice
from blackprop.lab.remote.client._remote import RemoteDevice
from blackprop.lab.remote.server._server import Server
from blackprop.lab.wrappers._checked import Checked, Refuse, Remeasure
from blackprop.lab.wrappers._detectors import ReadingFault
from blackprop.lab.wrappers._faulty import Faulty
from blackprop.lab.wrappers._guarded import Guarded
from blackprop.lab.wrappers._recorded import Recorded, Replayed
from blackprop.lab.wrappers._retrying import Retrying

__all__ = [
    "Camera",
    "CameraModulator",
    "Channels",
    "Checked",
    "Farm",
    "Faulty",
    "Gamma",
    "Guarded",
    "Instrument",
    "Modulator",
    "PulsedFarm",
    "QcodesDevice",
    "RayDevice",
    "ReadingFault",
    "Readings",
    "Recorded",
    "Refuse",
    "Region",
    "Remeasure",
    "RemoteDevice",
    "Replayed",
    "Retrying",
    "Server",
    "VisaDevice",
    "ray_members",
]
