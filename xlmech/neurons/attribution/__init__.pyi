from .attribute import AttributionResult as AttributionResult
from .attribute import attribute_neurons as attribute_neurons
