"""Results as Plotly figures.

Nothing is measured here: a figure is drawn from a saved or fresh result alone. Its caption, below the plot and in
`layout.meta`, says on how many it rests and what its interval is; what was not measured says so.
Languages keep their colour and, unless sorted by value, their order: the plant language first, then by name.
`TEMPLATE`, `finish`, `faded` and `language_name` give a figure of your own the same look.

    figures.leakage_matrix(measure_leakage(model, probes)).show()
"""

from xlmech.figures._flow import depths, direct_logit, similarity
from xlmech.figures._leakage import leakage_by_language, leakage_matrix
from xlmech.figures._lens import leakage_per_layer, lens
from xlmech.figures._mitigation import before_after, price
from xlmech.figures._neurons import neuron_activations, neurons_per_layer
from xlmech.figures._patching import attention, patching, patching_positions
from xlmech.figures._style import TEMPLATE, faded, finish
from xlmech.figures._style import name as language_name
from xlmech.figures._trade_off import trade_off

__all__ = [
    "TEMPLATE",
    "attention",
    "before_after",
    "depths",
    "direct_logit",
    "faded",
    "finish",
    "language_name",
    "leakage_by_language",
    "leakage_matrix",
    "leakage_per_layer",
    "lens",
    "neuron_activations",
    "neurons_per_layer",
    "patching",
    "patching_positions",
    "price",
    "similarity",
    "trade_off",
]
