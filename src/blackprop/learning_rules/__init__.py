"""Rules that train a whole model without backpropagation. Each fills `.grad`, and any optimizer makes the step."""

from blackprop.learning_rules._contrastive_plasticity import ContrastivePlasticity, Spiking, modulator, synapses
from blackprop.learning_rules._direct_feedback import DirectFeedback, random_feedback
from blackprop.learning_rules._equilibrium_propagation import (
    Energy,
    EquilibriumPropagation,
    Layered,
    Relaxation,
    cross_entropy,
    hard_sigmoid,
    squared_error,
    steep_sigmoid,
)
from blackprop.learning_rules._physical_local_learning import PhysicalLocalLearning
from blackprop.learning_rules.threshold._network import ThresholdNetwork

__all__ = [
    "ContrastivePlasticity",
    "DirectFeedback",
    "Energy",
    "EquilibriumPropagation",
    "Layered",
    "PhysicalLocalLearning",
    "Relaxation",
    "Spiking",
    "ThresholdNetwork",
    "cross_entropy",
    "hard_sigmoid",
    "modulator",
    "random_feedback",
    "squared_error",
    "steep_sigmoid",
    "synapses",
]
