"""Rules that train a whole model otherwise than by backpropagation: each fills `.grad`, any optimizer steps."""

from blackprop.rules.contrastive_plasticity import ContrastivePlasticity, Spiking, modulator, synapses
from blackprop.rules.direct_feedback import DirectFeedback, random_feedback
from blackprop.rules.equilibrium_propagation import (
    Energy,
    EquilibriumPropagation,
    Layered,
    Relaxation,
    cross_entropy,
    hard_sigmoid,
    squared_error,
    steep_sigmoid,
)
from blackprop.rules.physical_local_learning import PhysicalLocalLearning

__all__ = [
    "ContrastivePlasticity",
    "DirectFeedback",
    "Energy",
    "EquilibriumPropagation",
    "Layered",
    "PhysicalLocalLearning",
    "Relaxation",
    "Spiking",
    "cross_entropy",
    "hard_sigmoid",
    "modulator",
    "random_feedback",
    "squared_error",
    "steep_sigmoid",
    "synapses",
]
