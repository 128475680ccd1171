"""Results as Plotly figures.

Nothing is measured here: a figure is drawn from a saved or fresh result alone. Its caption, below the plot and in
`layout.meta`, says on how many it rests and what its interval is; what was not measured says so.
Languages keep their colour and, unless sorted by value, their order: the training language first, then by name.
`TEMPLATE`, `finish`, `faded` and `language_name` give a figure of your own the same look.

Views of single prompts (`attention`, `leaking_tokens`, `neuron_activations`) are circuitsvis', for a notebook or a file.

    figures.leakage_matrix(measure_leakage(model, probes)).show()
    figures.save(figures.before_after(mitigation), "before_after.png")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
