"""Real devices: instruments on a bench, the way to them over a network, what guards and checks them, farms of them."""

from blackprop.lab.camera import Camera, CameraModulator, Modulator
from blackprop.lab.checked import Checked, Refuse, Remeasure
from blackprop.lab.detectors import Finding
from blackprop.lab.farm import Farm
from blackprop.lab.faulty import Faulty
from blackprop.lab.guarded import Guarded
from blackprop.lab.instrument import Instrument
from blackprop.lab.pixels import Gamma, Region
from blackprop.lab.qcodes import QcodesDevice
from blackprop.lab.ray_farm import RayDevice, ray_members
from blackprop.lab.recorded import Recorded, Replayed
from blackprop.lab.remote import RemoteDevice
from blackprop.lab.retrying import Retrying
from blackprop.lab.scpi import Channels, Readings
from blackprop.lab.server import Server
from blackprop.lab.visa import VisaDevice

__all__ = [
    "Camera",
    "CameraModulator",
    "Channels",
    "Checked",
    "Farm",
    "Faulty",
    "Finding",
    "Gamma",
    "Guarded",
    "Instrument",
    "Modulator",
    "QcodesDevice",
    "RayDevice",
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
