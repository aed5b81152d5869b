"""A device to be served: `blackprop serve examples.served_device:modulator --keys lab-keys`.

Yours talks to an instrument here, and says what is known of it. The guard keeps settings within what the bench may
bear, and leaves it dark when the last client has gone.
"""

import torch

import blackprop as bp


def modulator() -> bp.Device:
    """A light modulator of 128 × 128 pixels that the network of the digits has a place for."""
    device = bp.devices.LightModulator(128, 128)
    return bp.lab.Guarded(device, rows_per_second=1e6, park=torch.zeros(device.theta.size))


if __name__ == "__main__":
    print(bp.testing.check_device(modulator()))
