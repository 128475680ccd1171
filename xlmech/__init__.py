"""xlmech: where does a multilingual model leak people's data across languages, and which neurons stop it?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlmech import figures as figures
    from xlmech.audit.config import Config as Config
    from xlmech.audit.config import read_config as read_config
    from xlmech.audit.run import Outcome as Outcome
    from xlmech.audit.run import run_config as run_config
    from xlmech.audit.trace import RecordTrace as RecordTrace
    from xlmech.audit.trace import trace_record as trace_record
    from xlmech.data.languages import available_languages as available_languages
    from xlmech.data.pairs import ProbePair as ProbePair
    from xlmech.data.probes import Probe as Probe
    from xlmech.data.probes import ProbeSet as ProbeSet
    from xlmech.data.probes import build_probes as build_probes
    from xlmech.data.records import Record as Record
    from xlmech.data.records import demo_records as demo_records
    from xlmech.data.records import load_records as load_records
    from xlmech.data.records import save_records as save_records
    from xlmech.data.synthetic import invent_controls as invent_controls
    from xlmech.data.synthetic import synthesize_records as synthesize_records
    from xlmech.engine.record import ActivationMoments as ActivationMoments
    from xlmech.engine.record import activation_moments as activation_moments
    from xlmech.engine.sampling import Sampling as Sampling
    from xlmech.execution.ray_pool import on_ray as on_ray
    from xlmech.execution.resume import resumable as resumable
    from xlmech.leakage.measure import LeakageResult as LeakageResult
    from xlmech.leakage.measure import measure_leakage as measure_leakage
    from xlmech.lens.direct_logit import DirectLogitResult as DirectLogitResult
    from xlmech.lens.direct_logit import direct_logit_attribution as direct_logit_attribution
    from xlmech.lens.logit import LensResult as LensResult
    from xlmech.lens.logit import logit_lens as logit_lens
    from xlmech.lens.similarity import SimilarityResult as SimilarityResult
    from xlmech.lens.similarity import representation_similarity as representation_similarity
    from xlmech.lens.tuned import TunedLens as TunedLens
    from xlmech.lens.tuned import train_tuned_lens as train_tuned_lens
    from xlmech.mitigation.attacks import RecoveryResult as RecoveryResult
    from xlmech.mitigation.attacks import recovery_attacks as recovery_attacks
    from xlmech.mitigation.dose import dose_response as dose_response
    from xlmech.mitigation.evaluate import MitigationResult as MitigationResult
    from xlmech.mitigation.evaluate import evaluate_mitigation as evaluate_mitigation
    from xlmech.mitigation.export.checkpoint import export_model as export_model
    from xlmech.mitigation.export.manifest import Manifest as Manifest
    from xlmech.mitigation.export.manifest import load_manifest as load_manifest
    from xlmech.mitigation.knowledge import KnowledgeResult as KnowledgeResult
    from xlmech.mitigation.knowledge import base_knowledge as base_knowledge
    from xlmech.mitigation.specificity import SpecificityResult as SpecificityResult
    from xlmech.mitigation.specificity import specificity_matrix as specificity_matrix
    from xlmech.models.load import load_model as load_model
    from xlmech.neurons.ablation import ablate as ablate
    from xlmech.neurons.ablation import asking as asking
    from xlmech.neurons.attribution.attribute import AttributionResult as AttributionResult
    from xlmech.neurons.attribution.attribute import attribute_neurons as attribute_neurons
    from xlmech.neurons.evidence.interpret import NeuronActivations as NeuronActivations
    from xlmech.neurons.evidence.interpret import neuron_activations as neuron_activations
    from xlmech.neurons.evidence.interpret import promoted_tokens as promoted_tokens
    from xlmech.neurons.evidence.overlap import depth_of as depth_of
    from xlmech.neurons.evidence.overlap import language_overlap as language_overlap
    from xlmech.neurons.evidence.overlap import layer_spread as layer_spread
    from xlmech.neurons.evidence.overlap import set_overlap as set_overlap
    from xlmech.neurons.evidence.stability import StabilityResult as StabilityResult
    from xlmech.neurons.evidence.stability import chosen_again as chosen_again
    from xlmech.neurons.evidence.stability import pool_of as pool_of
    from xlmech.neurons.evidence.stability import selection_stability as selection_stability
    from xlmech.neurons.neuron_set import NeuronSet as NeuronSet
    from xlmech.neurons.neuron_set import PrivacyNeurons as PrivacyNeurons
    from xlmech.neurons.random_neurons import mean_magnitudes as mean_magnitudes
    from xlmech.neurons.random_neurons import random_neurons as random_neurons
    from xlmech.neurons.selection.learned_mask import LearnedMask as LearnedMask
    from xlmech.neurons.selection.learned_mask import learn_mask as learn_mask
    from xlmech.neurons.selection.locate import locate_privacy_neurons as locate_privacy_neurons
    from xlmech.neurons.selection.minimal_set import FewestNeurons as FewestNeurons
    from xlmech.neurons.selection.minimal_set import fewest_neurons as fewest_neurons
    from xlmech.neurons.selection.published import apneap as apneap
    from xlmech.neurons.selection.published import depn as depn
    from xlmech.neurons.selection.published import knowledge_neurons as knowledge_neurons
    from xlmech.neurons.selection.published import lape as lape
    from xlmech.neurons.selection.verify import VerifiedNeurons as VerifiedNeurons
    from xlmech.neurons.selection.verify import verify_neurons as verify_neurons
    from xlmech.options import LocateOptions as LocateOptions
    from xlmech.patching.between_languages import PatchingResult as PatchingResult
    from xlmech.patching.between_languages import patch_languages as patch_languages
    from xlmech.patching.estimates import AttributionPatchingResult as AttributionPatchingResult
    from xlmech.patching.estimates import attribution_patching as attribution_patching
    from xlmech.patching.positions import PositionSweep as PositionSweep
    from xlmech.patching.positions import patch_positions as patch_positions
    from xlmech.planting.train import plant as plant
    from xlmech.report.page import write_report as write_report

# Names are imported on first use, so that `xlmech --help` does not wait for torch.
_MODULE_OF = {
    "ablate": "neurons.ablation",
    "asking": "neurons.ablation",
    "ActivationMoments": "engine.record",
    "activation_moments": "engine.record",
    "AttributionResult": "neurons.attribution.attribute",
    "attribute_neurons": "neurons.attribution.attribute",
    "AttributionPatchingResult": "patching.estimates",
    "attribution_patching": "patching.estimates",
    "Config": "audit.config",
    "read_config": "audit.config",
    "mean_magnitudes": "neurons.random_neurons",
    "random_neurons": "neurons.random_neurons",
    "DirectLogitResult": "lens.direct_logit",
    "direct_logit_attribution": "lens.direct_logit",
    "on_ray": "execution.ray_pool",
    "dose_response": "mitigation.dose",
    "MitigationResult": "mitigation.evaluate",
    "evaluate_mitigation": "mitigation.evaluate",
    "export_model": "mitigation.export.checkpoint",
    "FewestNeurons": "neurons.selection.minimal_set",
    "fewest_neurons": "neurons.selection.minimal_set",
    "KnowledgeResult": "mitigation.knowledge",
    "base_knowledge": "mitigation.knowledge",
    "available_languages": "data.languages",
    "LeakageResult": "leakage.measure",
    "measure_leakage": "leakage.measure",
    "LensResult": "lens.logit",
    "logit_lens": "lens.logit",
    "locate_privacy_neurons": "neurons.selection.locate",
    "Manifest": "mitigation.export.manifest",
    "load_manifest": "mitigation.export.manifest",
    "LearnedMask": "neurons.selection.learned_mask",
    "learn_mask": "neurons.selection.learned_mask",
    "Outcome": "audit.run",
    "run_config": "audit.run",
    "load_model": "models.load",
    "NeuronActivations": "neurons.evidence.interpret",
    "neuron_activations": "neurons.evidence.interpret",
    "promoted_tokens": "neurons.evidence.interpret",
    "NeuronSet": "neurons.neuron_set",
    "PrivacyNeurons": "neurons.neuron_set",
    "LocateOptions": "options",
    "depth_of": "neurons.evidence.overlap",
    "language_overlap": "neurons.evidence.overlap",
    "layer_spread": "neurons.evidence.overlap",
    "set_overlap": "neurons.evidence.overlap",
    "ProbePair": "data.pairs",
    "PatchingResult": "patching.between_languages",
    "resumable": "execution.resume",
    "patch_languages": "patching.between_languages",
    "plant": "planting.train",
    "PositionSweep": "patching.positions",
    "patch_positions": "patching.positions",
    "Probe": "data.probes",
    "ProbeSet": "data.probes",
    "apneap": "neurons.selection.published",
    "depn": "neurons.selection.published",
    "knowledge_neurons": "neurons.selection.published",
    "lape": "neurons.selection.published",
    "Record": "data.records",
    "build_probes": "data.probes",
    "demo_records": "data.records",
    "load_records": "data.records",
    "save_records": "data.records",
    "RecoveryResult": "mitigation.attacks",
    "write_report": "report.page",
    "recovery_attacks": "mitigation.attacks",
    "Sampling": "engine.sampling",
    "SimilarityResult": "lens.similarity",
    "representation_similarity": "lens.similarity",
    "SpecificityResult": "mitigation.specificity",
    "specificity_matrix": "mitigation.specificity",
    "StabilityResult": "neurons.evidence.stability",
    "chosen_again": "neurons.evidence.stability",
    "pool_of": "neurons.evidence.stability",
    "selection_stability": "neurons.evidence.stability",
    "invent_controls": "data.synthetic",
    "synthesize_records": "data.synthetic",
    "RecordTrace": "audit.trace",
    "trace_record": "audit.trace",
    "TunedLens": "lens.tuned",
    "train_tuned_lens": "lens.tuned",
    "VerifiedNeurons": "neurons.selection.verify",
    "verify_neurons": "neurons.selection.verify",
}
__all__ = ["figures", *_MODULE_OF]  # noqa: PLE0604
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("figures", "distributed"):
        return importlib.import_module(f"xlmech.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"xlmech.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'xlmech' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
