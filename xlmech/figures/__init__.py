"""Results as Plotly figures.

Nothing is measured here: a figure is drawn from a saved or fresh result alone. Its caption, below the plot and in
`layout.meta`, says on how many it rests and what its interval is; what was not measured says so.
Languages keep their colour and, unless sorted by value, their order: the plant language first, then by name.
`TEMPLATE`, `finish`, `faded` and `language_name` give a figure of your own the same look.

Views of single prompts (`attention`, `leaking_tokens`, `neuron_activations`) are circuitsvis', for a notebook or a file.

    figures.leakage_matrix(measure_leakage(model, probes)).show()
    figures.save(figures.before_after(mitigation), "before_after.png")
"""

from xlmech.figures.by_language import leakage_by_language, leakage_matrix
from xlmech.figures.by_layer import leakage_per_layer, lens
from xlmech.figures.information_flow import depths, direct_logit, similarity
from xlmech.figures.methods import dose_response
from xlmech.figures.neuron_sets import neurons_per_layer
from xlmech.figures.overlaps import overlap
from xlmech.figures.patches import patching, patching_positions
from xlmech.figures.reductions import before_after, price
from xlmech.figures.saving import save
from xlmech.figures.specificities import specificity
from xlmech.figures.style import TEMPLATE, faded, finish, masked
from xlmech.figures.style import name as language_name
from xlmech.figures.token_views import View, attention, leaking_tokens, neuron_activations
from xlmech.figures.trade_offs import trade_off

__all__ = [
    "TEMPLATE",
    "View",
    "attention",
    "before_after",
    "depths",
    "direct_logit",
    "dose_response",
    "faded",
    "finish",
    "language_name",
    "leakage_by_language",
    "leakage_matrix",
    "leakage_per_layer",
    "leaking_tokens",
    "lens",
    "masked",
    "neuron_activations",
    "neurons_per_layer",
    "overlap",
    "patching",
    "patching_positions",
    "price",
    "save",
    "similarity",
    "specificity",
    "trade_off",
]
