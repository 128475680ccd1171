"""Open an explorer on a live model, or on a saved run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlmech.audit.config import Config, read_config
from xlmech.data.attributes import Attribute
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.readers import load_records
from xlmech.data.records import Record
from xlmech.explorer.circuit import Circuit
from xlmech.models.backends import is_hooked
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.report.run_results import read_results


def explore(
    model: Any,
    records: Iterable[Record] | str | Path | None = None,
    *,
    languages: Sequence[str] | None = None,
    record: str = "",
    neurons: PrivacyNeurons | Mapping[str, NeuronSet] | None = None,
    kinds: Iterable[Attribute] = (),
    prompt: str | PromptFormat = "auto",
    reveal: bool = False,
) -> Any:
    """Explore how a model gives single records away, in Jupyter, JupyterLab or VS Code.

    On a live model: the logit lens per language with the tokens that every layer would write, the patching map between two
    languages, the answer's neurons with an ablation that acts at once, and the attention of the heads that carry the answer.
    Panels follow one selection; nothing is computed that is not looked at. Below stand lines of Python that give the same
    numbers. Without a model, what a run saved is shown: what came of each record in each language before and after ablation, its
    lens, the chosen neurons and the run's figures.

    One record is an anecdote: the explorer has no intervals. The analyses over many records have them.

    Args:
        model: Hooked model; or, to see what is saved, a run folder, an audit, or results by name.
        records: Records to ask about, or a run folder whose config names them; its neurons are then offered as sets. Of a saved
            run, with `reveal=True`, the records whose names and values are shown; by default those that its config names.
        languages: Languages to ask in; by default five, the training language among them, and all that have a pack can be chosen.
        record: Id of the record to begin with; the first private one by default.
        neurons: Sets that can be ablated by name.
        kinds: Kinds of data beside those that xlmech knows.
        prompt: Prompt format, as of `prompt_format`.
        reveal: Whether names, values and answers are shown; a saved notebook keeps what its widgets show.

    Returns:
        A widget (`widget.Explorer`, or of a saved run `saved.widget.SavedExplorer`); make it the last line of a cell. Its `state`
        and `change(...)` can be used from code.

    Raises:
        ImportError: ipywidgets or anywidget is missing (names the extra).
        ValueError: No records, an unknown record or language, neurons of another model, or a model that is not hooked.
        TypeError: Neither a hooked model nor a run.
        FileNotFoundError: No such run folder, or none of its files that is needed.
    """
    check_widgets()
    if not is_hooked(model):
        if records is not None and not reveal:
            raise ValueError(
                f"expected a HookedTransformer or TransformerBridge, got {type(model).__name__}; use load_model, or give a run "
                "folder alone to see what is saved (and, to see names and values, records with reveal=True)"
            )
        live = {"languages": languages, "neurons": neurons, "kinds": tuple(kinds), "prompt": prompt != "auto"}
        if given := [name for name, value in live.items() if value]:
            raise ValueError(
                f"{', '.join(given)}: only a live model can be asked otherwise; leave it out to see what a run saved"
            )
        return _saved(model, records, record, reveal)
    from xlmech.explorer.controls import check_sets
    from xlmech.explorer.widget import Explorer

    if records is None:
        raise ValueError("no records to explore; give a list such as demo_records(), or a run folder")
    if isinstance(records, str | Path):
        run = Path(records)
        data = _config(run).data
        records, kinds = load_records(data.records, kinds=data.kinds), (*kinds, *data.kinds)
        languages = languages or data.languages
        prompt = data.prompt if prompt == "auto" else prompt
        neurons = neurons if neurons is not None else read_results(run).neurons
    circuit = Circuit(model, records, languages, kinds=kinds, prompt=prompt)
    sets = check_sets(_sets(neurons), circuit.neuron_set(()))
    return Explorer(circuit, circuit.start(record, reveal=reveal), sets)


def _saved(source: Any, records: Iterable[Record] | str | Path | None, record: str, reveal: bool) -> Any:
    """Open an explorer on what a run saved."""
    from xlmech.explorer.saved.run import SavedRun
    from xlmech.explorer.saved.widget import SavedExplorer

    try:
        run = SavedRun(source)
    except TypeError as error:
        raise TypeError(f"{error}; a model must be hooked, as of load_model, and needs records") from error
    people: dict[str, Record] = {}
    if reveal:
        people = {one.id: one for one in _people(source, records)}
    return SavedExplorer(run, run.start(record, reveal=reveal), people)


def _people(source: Any, records: Iterable[Record] | str | Path | None) -> Iterable[Record]:
    """Return the records given, or those that the run's config names."""
    if records is not None and not isinstance(records, str | Path):
        return records
    folder = source if records is None else records
    path = Path(folder) / "config.yaml" if isinstance(folder, str | Path) else None
    if path is None or not path.is_file():
        raise ValueError(
            "reveal=True shows names and values, which a run does not save, and there is no config.yaml that says where they "
            "are; give the records, too"
        )
    data = read_config(path).data
    return load_records(data.records, kinds=data.kinds)


def _config(run: Path) -> Config:
    """Read the config of a run folder, which names the records."""
    if not run.is_dir():
        raise FileNotFoundError(f"no run folder {run}; give one, or a list of records: those of a file by load_records")
    if not (run / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{run}: there is no config.yaml that names its records; give the records, such as demo_records()"
        )
    return read_config(run / "config.yaml")


def check_widgets() -> None:
    """Raise ImportError unless the packages are there with which notebooks show widgets."""
    try:
        import anywidget  # noqa: F401
        import ipywidgets  # noqa: F401
    except ImportError as error:
        raise ImportError(f'explore needs {error.name}: pip install "xlmech[notebook]"', name=error.name) from error


def _sets(neurons: PrivacyNeurons | Mapping[str, NeuronSet] | None) -> dict[str, NeuronSet]:
    if neurons is None:
        return {}
    if isinstance(neurons, PrivacyNeurons):
        return {"universal": neurons.universal} | {f"specific {code}": own for code, own in neurons.specific.items()}
    return dict(neurons)
