"""Who may import whom: `xlmech` stays layered, and light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xlmech

PACKAGE = Path(xlmech.__file__).parent
LEAKAGE = {"answers", "backends", "runner", "metrics", "records", "probes", "results", "models", "languages", "parts"}
MITIGATION = {"ablation", "conditions", "leakage", "neurons"}
PATCHING = {"neurons", "pairs", "patch_plans", "patch_tables", "patched_runs", "positions"}
BELOW_THE_AUDIT = {
    *(
        "languages",
        "records",
        "pairs",
        "probes",
        "synthesis",
        "metrics",
        "results",
        "readout",
        "checkpoints",
        "backends",
        "models",
    ),
    *(
        "runner",
        "answers",
        "rows",
        "effects",
        "leakage",
        "lens",
        "attribution",
        "neurons",
        "locate",
        "ablation",
        "evaluation",
        "planting",
    ),
}
ALLOWED = {
    "__init__": set(),
    "reference": {"backends", "key_values", "readout"},
    "choices": set(),
    "bars": set(),
    "languages": {"choices"},
    "options": set(),
    "records": {"languages", "choices"},
    "pairs": {"languages", "choices"},
    "probes": {"languages", "pairs", "records", "choices"},
    "synthesis": {"languages", "records", "choices"},
    "metrics": set(),
    "folders": set(),
    "results": {"folders"},
    "products": set(),
    "chunks": {"products"},
    "readout": {"chunks"},
    "nearby": {"chunks", "readout"},
    "quadrature": set(),
    "weight_checks": set(),
    "gguf_files": {"folders", "weight_checks"},
    "checkpoints": {"costs", "gguf_files", "weight_checks"},
    "key_values": set(),
    "backends": {"key_values", "products"},
    "models": {"backends", "checkpoints", "results", "readout", "reference"},
    "runner": {"backends", "key_values", "bars"},
    "sampling": {"backends", "chunks", "readout", "choices"},
    "answers": {"backends", "key_values", "readout", "runner", "sampling"},
    "rows": {"backends", "key_values"},
    "effects": {"backends", "metrics", "nearby", "quadrature", "readout", "rows", "runner"},
    "nodes": {"backends", "effects", "runner"},
    "fingerprints": set(),
    "pieces": set(),
    "units": {"pieces"},
    "blocks": set(),
    "deactivation": {"blocks"},
    "parts": {"backends", "blocks", "deactivation", "fingerprints", "pieces", "units"},
    "questions": {"answers", "backends", "languages", "metrics", "probes", "records", "runner", "sampling"},
    "leakage": LEAKAGE | {"questions", "sampling", "choices", "intervals"},
    "neutral": {"answers", "backends", "baselines", "effects", "languages", "parts", "runner"},
    "knowledge": LEAKAGE | {"choices", "intervals"},
    "reductions": {"metrics", "intervals", "languages"},
    "forms": {"backends", "languages", "leakage", "probes", "runner", "choices"},
    "positions": {"backends", "probes", "records", "runner", "choices"},
    "representations": set(),
    "tuned_lens": {"backends", "languages", "models", "readout", "results", "runner", "bars", "choices"},
    "lens_readings": {"backends", "forms", "readout", "runner", "tuned_lens", "bars"},
    "lens": LEAKAGE | {"forms", "leakage", "lens_readings", "tuned_lens", "choices", "intervals"},
    "similarity": LEAKAGE | {"positions", "representations", "choices"},
    "direct_logit": LEAKAGE | {"forms", "intervals"},
    "patched_runs": {"backends", "readout", "rows", "runner"},
    "patch_plans": {"backends", "neurons", "pairs", "patched_runs", "positions", "probes", "runner", "choices"},
    "patch_gradients": {"backends", "patch_plans", "patched_runs"},
    "patch_tables": {"leakage", "metrics", "pairs", "patch_plans", "patched_runs", "intervals"},
    "patching": LEAKAGE | PATCHING | {"choices"},
    "position_sweep": LEAKAGE | PATCHING | {"patch_gradients"},
    "patch_estimates": LEAKAGE | PATCHING | {"patch_gradients", "bars"},
    "baselines": {"backends"},
    "tally": {"backends", "metrics", "neurons", "probes"},
    "contributions": {
        "answers",
        "backends",
        "effects",
        "neurons",
        "options",
        "positions",
        "probes",
        "runner",
        "tally",
        "bars",
    },
    "attribution": LEAKAGE
    | {"baselines", "contributions", "effects", "leakage", "neurons", "options", "tally", "choices"},
    "trace": LEAKAGE | {"attribution", "leakage", "lens", "pairs", "patching", "position_sweep", "choices"},
    "neurons": {"options", "results"},
    "controls": {"backends", "effects", "neurons", "probes", "runner"},
    "switches": {"backends", "effects", "metrics", "readout", "runner"},
    "set_search": set(),
    "mask": LEAKAGE | {"neurons", "set_search", "switches", "choices"},
    "votes": LEAKAGE | {"attribution", "baselines", "effects", "neurons", "quadrature", "bars"},
    "recipes": {"backends", "neurons", "neutral", "probes", "runner", "votes", "languages", "choices"},
    "known": {"answers", "backends", "probes", "runner"},
    "subject_scores": {"attribution"},
    "stability": {"attribution", "metrics", "neurons", "options", "results", "subject_scores"},
    "neuron_views": {"direct_logit", "effects", "neurons", "positions"} | LEAKAGE,
    "overlap": {"attribution", "metrics", "neurons", "subject_scores", "intervals"},
    "locate": {
        "languages",
        "ablation",
        "attribution",
        "backends",
        "contributions",
        "known",
        "models",
        "neurons",
        "neutral",
        "options",
        "probes",
        "refine",
    },
    "refine": {"fewest", "neurons", "probes", "verification"},
    "verification": LEAKAGE
    | {"ablation", "attribution", "baselines", "effects", "known", "neurons", "options", "bars"},
    "fewest": {"ablation", "leakage", "neurons", "probes", "verification"},
    "places": {"backends"},
    "activations": {"backends", "effects", "runner", "choices"},
    "ablation": {"backends", "deactivation", "effects", "models", "neurons", "places", "choices", "languages"},
    "conditions": {"ablation", "activations", "backends", "controls", "models", "neurons", "probes", "choices"},
    "evaluation": LEAKAGE | MITIGATION | {"activations", "knowledge", "neutral", "reductions", "choices"},
    "specificity": LEAKAGE | MITIGATION | {"reductions"},
    "dose": LEAKAGE | MITIGATION | {"evaluation", "neutral", "choices"},
    "finetuning": {"backends", "lessons", "readout", "records", "runner", "bars"},
    "recovery": LEAKAGE | MITIGATION | {"finetuning", "lessons", "reductions", "sampling", "choices"},
    "manifest": {"neurons", "results"},
    "weights": {"neurons"},
    "export": {
        "ablation",
        "backends",
        "checkpoints",
        "folders",
        "languages",
        "manifest",
        "models",
        "neurons",
        "results",
        "weights",
    },
    "lessons": {"languages", "probes", "records"},
    "planting": {"checkpoints", "folders", "languages", "lessons", "readout", "records", "bars", "choices"},
    "figures": {"results", "pages", "choices"},
    "pages": set(),
    "findings": {"results", "run_folders", "leakage", "lens", "neurons", "evaluation"},
    "intervals": {"metrics"},
    "significance": set(),
    "chance": {"intervals", "languages", "leakage", "significance"},
    "words": {"figures"},
    "remedy": {"chance", "evaluation", "findings", "intervals", "words"},
    "verdict": {"chance", "findings", "remedy", "words"},
    "gate": {"findings", "intervals"},
    "report_figures": {"figures", "findings"},
    "report_text": {"figures", "findings", "languages", "words"},
    "report": {"chance", "figures", "findings", "pages", "report_figures", "report_text", "verdict", "words"},
    "costs": set(),
    "stages": {"units"},
    "run_folders": set(),
    "ray_actors": {"ablation", "backends", "deactivation", "fingerprints", "models", "pieces", "units"},
    "distributed": {"backends", "deactivation", "parts", "pieces", "ray_actors", "units"},
    "audit": BELOW_THE_AUDIT | {"costs", "options", "stages"},
    "show": {"figures", "pages", "audit"},
    "config_text": set(),
    "config": {"config_text", "languages", "options", "records"},
    "preparation": BELOW_THE_AUDIT | {"audit", "config", "run_folders"},
    "mitigate": BELOW_THE_AUDIT
    | {
        "audit",
        "config",
        "export",
        "fingerprints",
        "manifest",
        "parts",
        "preparation",
        "run_folders",
        "show",
        "stages",
    },
    "console": {"models", "records", "bars"},
    "cli_report": {"console", "findings", "gate", "report"},
    "cli": BELOW_THE_AUDIT | {"audit", "cli_audit", "cli_report", "console", "options"},
    "cli_audit": {"audit", "config", "console", "distributed", "mitigate", "show", "bars"},
}


def sources_of(module: str) -> list[Path]:
    """A module's file, or all of a package's."""
    path = PACKAGE / f"{module}.py"
    return [path] if path.is_file() else sorted((PACKAGE / module).glob("*.py"))


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:` (its `else` runs)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from run_time_nodes(other)
            continue
        yield child
        yield from run_time_nodes(child)


def imports(code: str) -> set[str]:
    """Modules of xlmech that the code imports at run time, in functions too."""
    found: set[str] = set()
    for node in run_time_nodes(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "xlmech"):
            base = node.module if not node.level else ".".join(["xlmech", *(node.module or "").split(".")]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "xlmech" else [str(base)]
        else:
            continue
        found |= {(name.split(".") + ["__init__"])[1] for name in names if name.split(".")[0] == "xlmech"}
    return found


def test_imports_are_found() -> None:
    code = """
import os, xlmech.cli.app
import xlmech
from xlmech.audit import publish as show
from xlmech.models import load as m
from xlmech.data.records import Record
from . import lens
from .figures import lens as drawn
if TYPE_CHECKING:
    from xlmech.audit.audit import Audit
else:
    from xlmech.neurons.neuron_set import NeuronSet
def late():
    try:
        from xlmech.planting.train import plant
    except ImportError:
        pass
"""
    wanted = {"cli", "__init__", "show", "models", "records", "lens", "figures", "neurons", "planting"}
    assert imports(code) == wanted


def test_every_module_has_its_layer() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert modules == set(ALLOWED)


@pytest.mark.parametrize("module", ALLOWED)
def test_module_imports_only_what_lies_below(module: str) -> None:
    sources = sources_of(module)
    assert sources
    for path in sources:
        found = imports(path.read_text(encoding="utf-8")) - {module}
        assert found - ALLOWED[module] == set(), path.name


def test_layers_have_no_circle() -> None:
    left = dict(ALLOWED)
    while left:
        lowest = {module for module, below in left.items() if not below & set(left)}
        assert lowest, f"a circle among {sorted(left)}"
        left = {module: below for module, below in left.items() if module not in lowest}


def test_public_names_are_those_of_their_modules() -> None:
    tree = ast.parse(sources_of("__init__")[0].read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name: f"xlmech.{module}" for name, module in xlmech._MODULE_OF.items()} | {"figures": "xlmech"} == typed
    for name in xlmech.__all__:
        found = getattr(xlmech, name)
        assert name == "figures" or found.__module__ == typed[name]
    assert set(xlmech.__all__) <= set(dir(xlmech))
    with pytest.raises(AttributeError, match="module 'xlmech' has no attribute 'leak'"):
        xlmech.leak  # noqa: B018


@pytest.mark.parametrize("module", ["xlmech", "xlmech.cli.app"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "xlmech" in found.stdout.split()
    heavy = {
        "torch",
        "transformers",
        "transformer_lens",
        "plotly",
        "pandas",
        "numpy",
        "scipy",
        "babel",
        "pydantic",
        "faker",
        "jinja2",
    }
    # The options, whose defaults the command line shows, are checked by pydantic.
    assert set(found.stdout.split()) & heavy <= ({"pydantic"} if module == "xlmech.cli.app" else set())
