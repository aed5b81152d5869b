"""Costs by published figures."""

from __future__ import annotations

from blackprop.core.costs._cost import Cost, EnergyCost

CORE, CORES = 256, 64  # rows and columns of a core, and cores, of the chip of Le Gallo et al.
THROUGHPUT, EFFICIENCY = 63.1e12, 9.76e12  # operations a second of the whole chip, operations a joule
HEATER = 24.77e-3  # W for π
PROCESSOR = 30.0  # W


def phase_change_core(d_in: int, d_out: int, *, programming: float, programming_energy: float) -> Cost:
    """Return the cost of a matrix in cores of phase-change memory, with their 8-bit converters.

    A multiplication takes the time of one core, 133 ns, since cores work at the same time, and `2 · d_in · d_out`
    operations at 9.76 · 10¹² operations a joule: 13.4 nJ for 256 × 256. These are figures of the one-phase read mode.

    - `d_in`, `d_out`: the shape of the matrix.
    - `programming` (s), `programming_energy` (J): to write all cells. The source does not state them.

    Source: M. Le Gallo et al., Nature Electronics 6, 680 (2023), arXiv:2212.02872.

    >>> import blackprop as bp
    >>> cost = bp.devices.costs.phase_change_core(256, 256, programming=0.1, programming_energy=1e-3)
    >>> f"{cost.row:.3g} s, {cost.energy.row:.3g} J"
    '1.33e-07 s, 1.34e-08 J'
    """
    energy = EnergyCost(programming_energy, 2 * d_in * d_out / EFFICIENCY)
    return Cost(programming, CORES * 2 * CORE**2 / THROUGHPUT, energy=energy)


def thermo_optic_chip(
    parameters: int, *, programming: float, row: float, watts_for_pi: float = HEATER, dac: float, adc: float
) -> Cost:
    """Return the cost of a photonic chip whose phases are held by heaters.

    A heater holds a phase φ with `watts_for_pi · φ / π`, so P phases that are uniform between 0 and 2π take on average
    `P · watts_for_pi` during all of the declared seconds. This is most of the energy of such a chip.

    - `parameters`: P, the number of heaters.
    - `programming`, `row` (s): to let the heaters settle, and to send and read a row.
    - `watts_for_pi` (W, default 24.77 mW): of a heater of doped silicon. Heaters of a suspended waveguide take 0.5 mW
      and settle in 0.14 ms, one with slow light takes 3.63 mW.
    - `dac`, `adc` (J): of a conversion, see `EnergyCost`.

    Source: N. C. Harris et al., Optics Express 22, 10487 (2014). The others: H. Sun et al., Micromachines 13, 1509
    (2022), and arXiv:2405.11044.

    >>> import blackprop as bp
    >>> cost = bp.devices.costs.thermo_optic_chip(4032, programming=1e-4, row=1e-6, dac=0, adc=0)
    >>> f"{cost.energy.power:.0f} W"
    '100 W'
    """
    return Cost(programming, row, energy=EnergyCost(dac=dac, adc=adc, power=parameters * watts_for_pi))


def scattering_processor(*, programming: float, row: float) -> Cost:
    """Return the cost of a modulator, a scattering medium and a camera: 30 W during all of the declared seconds.

    - `programming`, `row` (s): a frame of the modulator and of the camera.

    Source: Z. Wang et al., arXiv:2409.12965 (2024), of an optical processing unit.

    >>> import blackprop as bp
    >>> bp.devices.costs.scattering_processor(programming=1e-3, row=1e-3).energy.power
    30.0
    """
    return Cost(programming, row, energy=EnergyCost(power=PROCESSOR))
