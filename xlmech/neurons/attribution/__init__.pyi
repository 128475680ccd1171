from .attribute import AttributionResult as AttributionResult
from .attribute import attribute_neurons as attribute_neurons
from .single import ablation_effects as ablation_effects
