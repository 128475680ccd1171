from .ablation import ablate as ablate
from .ablation import asking as asking
from .neuron_gates import NeuronGates as NeuronGates
from .neuron_set import NeuronSet as NeuronSet
from .privacy_neurons import PrivacyNeurons as PrivacyNeurons
from .random_neurons import mean_magnitudes as mean_magnitudes
from .random_neurons import random_neurons as random_neurons
