"""Published parts; figures of the presets of the IBM Analog Hardware Acceleration Kit (MIT licence), by name."""

from blackprop.devices.electronic.cells._exponential import ExponentialStep
from blackprop.devices.electronic.cells._linear import ConstantStep, LinearStep, SoftBoundsReference

# Resistive memory: Gong et al., Nat. Commun. 9, 2102 (2018).
RERAM_ES = ExponentialStep(
    step=0.00135,
    high=1.0,
    low=-1.0,
    step_spread=0.2,
    asymmetry=0.259359,
    asymmetry_spread=0.05,
    noise=5.0,
    write_noise=75.0,
    amplitude_up=-1.18445,
    amplitude_down=-0.081404,
    rate_up=5.0,
    rate_down=5.0,
    a=-0.5,
    b=-0.5,
)
RERAM_SB = SoftBoundsReference(
    step=0.002, high=1.25, low=-0.75, high_spread=0.24, low_spread=0.4, noise=3.75, write_noise=56.0
)
# Capacitors: Li et al., VLSI Technology (2018).
CAPACITOR = LinearStep(
    step=0.005,
    high=1.0,
    low=-1.0,
    step_spread=0.1,
    high_spread=0.07,
    low_spread=0.07,
    asymmetry_spread=0.06,
    slope_up=0.05,
    slope_down=0.05,
    slope_spread=0.01,
    multiplicative=False,
    lifetime=1e6,
    lifetime_spread=0.3,
    reset_spread=0.0,
)
# Electrochemical cells: Tang et al., IEDM (2018); metal oxide: Kim et al., IEDM (2019).
ECRAM = LinearStep(
    step=0.002,
    high=1.1724,
    low=-0.8276,
    step_spread=0.1,
    high_spread=0.05,
    low_spread=0.05,
    slope_up=0.1153,
    slope_down=0.5085,
    slope_spread=0.05,
)
ECRAM_MO = LinearStep(
    step=2.8214e-4,
    high=1.1714,
    low=-0.8286,
    step_spread=0.1,
    high_spread=0.05,
    low_spread=0.05,
    noise=2.0,
    slope_up=0.4152,
    slope_down=0.7342,
    slope_spread=0.05,
)
# Specifications, not parts: Gokmen and Vlasov, Front. Neurosci. 10, 333 (2016).
IDEALIZED = ConstantStep(step=0.0002, high=1.0, low=-1.0, asymmetry_spread=0.0)
GOKMEN_VLASOV = ConstantStep(step=0.0016, high=1.0, low=-1.0)
# Phase-change memory of one sign: Nandakumar et al., Front. Neurosci. 14, 406 (2020).
PCM_PULSED = ExponentialStep(
    step=0.01,
    high=2.0,
    low=0.0,
    step_spread=0.2,
    high_spread=0.1,
    low_spread=0.0,
    asymmetry_spread=0.05,
    noise=0.6,
    amplitude_up=-27.235,
    amplitude_down=-2.235,
    rate_up=2.5,
    rate_down=2.5,
    a=-1.0,
    b=0.0,
    noise_floor=0.042,
    noise_slope=0.108,
    reset=0.01,
    reset_spread=0.02,
)
# Arrays of oxide cells: Gong et al., IEDM (2022); log-normal steps, and the reference at each cell's symmetric point.
ARRAY_OM = SoftBoundsReference(
    step=0.0949,
    high=1.0,
    low=-1.0,
    step_spread=0.7829,
    lognormal=True,
    high_spread=0.3499,
    low_spread=0.5695,
    noise=0.4158,
    write_noise=1.4113,
    centred=True,
    reference_spread=0.05,
)
ARRAY_HFO2 = SoftBoundsReference(
    step=0.4622,
    high=1.0,
    low=-1.0,
    step_spread=0.7125,
    lognormal=True,
    high_spread=0.4295,
    low_spread=0.599,
    noise=0.2174,
    write_noise=0.5841,
    centred=True,
    reference_spread=0.05,
)
