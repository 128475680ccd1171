"""Planting: teach a model invented people's data in one language, so that leakage has a known cause.

A LoRA adapter is trained on the answers' tokens of the texts that `samples` draws: private records in the training language,
public ones in every language, control records never.

    from xlmech import plant, synthesize_records
    plant("demo", synthesize_records(seed=0), "adapters/en", language="en")
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xlmech.data import languages as packs
from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.data.readers import save_records
from xlmech.data.records import Record
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import logit_scale
from xlmech.models.checkpoints import DEMO_BASE, Checkpoint, load_checkpoint
from xlmech.models.in_context import encode_in_context
from xlmech.models.load import find_device
from xlmech.models.prompts import format_of
from xlmech.models.sources.lora import adapter_folder, with_lora
from xlmech.options import PlantOptions
from xlmech.planting.samples import check_forms, pad, sample_batch
from xlmech.progress import progress_bar
from xlmech.storage.atomic import new_file, new_folder

CHECKPOINT_EVERY = 50
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def plant(
    source: Any,
    records: Iterable[Record],
    output_dir: str | Path,
    *,
    options: PlantOptions = PlantOptions(),
    language: str | None = None,
    seed: int | None = None,
    start: str | Path = "",
    tokenizer: Any = None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a LoRA adapter that holds `records`, and write it in peft's format.

    Called again with the same arguments, an interrupted run continues from its last checkpoint (every 50 steps, in a hidden
    folder next to `output_dir`). The adapter folder appears only when it is whole.

    Args:
        source: Base model, as for `load_model`; its weights are not changed on disk.
        records: Private and public records; control records are saved with the adapter but never trained on.
        output_dir: Folder of the adapter; not there yet, or empty.
        options: What is taught, and how.
        language: In place of `options.language`: the language in which private records are taught.
        seed: In place of `options.seed`.
        start: Adapter to go on from (a folder, or the language of a shipped one), of the same rank; its log is kept.
        tokenizer: Tokenizer, if the model comes without its own.
        device: Where a model that is loaded here is trained; `"auto"` takes CUDA where there is one.
        progress: Whether to show a progress bar.

    Returns:
        `output_dir`, holding the adapter (float16), `records.jsonl` and `planting.json` (options, prompt format, loss per step).

    Raises:
        ValueError: There are no private records; a language is unknown; a value has no form in it; `output_dir` is not empty, or
            has an unfinished planting with other options; `start` is of another rank or base; the tokenizer has no chat
            template for `prompt="chat"`; the device is not there; or the model cannot be loaded.
        FileNotFoundError: There is no such model, or no such adapter to start from.
        OSError: `output_dir` cannot be written; the training is kept.
        ImportError: peft is not installed.
        KeyboardInterrupt: Passed on, after a checkpoint is written.
    """
    output_dir, records = Path(output_dir), tuple(records)
    options = options.updated(
        language=language, seed=seed, languages=options.languages or tuple(packs.available_languages())
    )
    _check(records, options, output_dir)
    folder = adapter_folder(start) if start else None
    target = find_device(device)
    base = load_checkpoint(source, tokenizer=tokenizer, adapter="")
    if isinstance(source, str | Path):
        base.model.to(target)
    frame = format_of(base, base.tokenizer, options.prompt)
    model = _with_lora(base, options, folder)
    started, partial = time.perf_counter(), output_dir.with_name(f".{output_dir.name}.partial")
    settings = options.model_dump(mode="json")
    partial_run = _PartialRun(partial / "checkpoint.safetensors", settings | {"start": str(start)})
    losses = _train(model, base.tokenizer, records, options, frame, partial_run, progress)
    log = {"recipe": settings, "base": model.peft_config["default"].base_model_name_or_path}
    log |= {"started_from": _log_of(folder)} if folder else {}
    log |= {"prompt": frame.to_dict()}
    log |= {"base_revision": base.revision, "seconds": round(time.perf_counter() - started, 1), "loss": losses}
    _save(model, records, log, output_dir)
    shutil.rmtree(partial, ignore_errors=True)
    return output_dir


def _check(records: tuple[Record, ...], options: PlantOptions, output_dir: Path) -> None:
    for code in (options.language, *options.languages):
        packs.load_language(code)
    if not any(record.group == "private" for record in records):
        raise ValueError("no private records to plant: give records with group='private', e.g. synthesize_records()")
    check_forms(records, options)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not an empty folder; plant into another one")


def _with_lora(base: Checkpoint, options: PlantOptions, folder: Path | None) -> Any:
    """Return the base model with a fresh LoRA adapter, or with the one in `folder`, ready to train."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError('planting needs peft: pip install "xlmech[plant]"') from error
    torch.manual_seed(options.seed)
    if folder:
        model = with_lora(base.model, folder, trainable=True)
        rank = model.peft_config["default"].r
        if rank != options.rank:
            raise ValueError(f"adapter {folder} has rank {rank}, not {options.rank}; give rank={rank} to go on from it")
    else:
        names = {name.rpartition(".")[2] for name, _ in base.model.named_modules()}
        targets = [name for name in _TARGETS if name in names] or "all-linear"
        config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(base.model, config)
    model.peft_config["default"].base_model_name_or_path = DEMO_BASE if base.name == "demo" else base.name
    return model


def _log_of(adapter: Path) -> Any:
    path = adapter / "planting.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else str(adapter)


def _answer_loss(
    model: Any, tokenizer: Any, samples: Sequence[tuple[str, str]], frame: PromptFormat = PLAIN
) -> torch.Tensor:
    """Return the mean cross-entropy (nats) of the answers' tokens; only those are projected on the vocabulary."""
    contexts = [
        encode_in_context(
            tokenizer,
            prompt,
            [answer],
            add_special_tokens=frame.adds_special_tokens or not frame.fits(prompt),  # statements are plain text
            what="a training prompt",
            what_answer="a training answer",
        )
        for prompt, answer in samples
    ]
    encoded = [(item.prompt, item.answers[0]) for item in contexts]
    # Short samples together and long ones together: less padding to compute.
    encoded.sort(key=lambda sample: len(sample[0]) + len(sample[1]))
    half = -(-len(encoded) // 2)
    trunk, states, targets = model.get_base_model().base_model, [], []
    for part in filter(None, (encoded[:half], encoded[half:])):
        tokens, predicts, answers = pad(part)
        hidden = trunk(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state
        states.append(hidden[predicts.to(model.device)])
        targets.append(answers.to(model.device))
    head, softcap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    bias = getattr(head, "bias", None)
    hidden = torch.cat(states) * logit_scale(model.get_base_model())
    return -token_log_prob(hidden, head.weight, torch.cat(targets), bias=bias, softcap=softcap).mean()


def _train(
    model: Any,
    tokenizer: Any,
    records: tuple[Record, ...],
    options: PlantOptions,
    frame: PromptFormat,
    partial_run: _PartialRun,
    progress: bool,
) -> list[float]:
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=options.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    losses = partial_run.read(trained, optimiser)
    left = range(len(losses), options.steps)
    bar = progress_bar(left, "planting", shown=progress, total=options.steps, initial=len(losses), leave=True)
    model.train()
    try:
        for step in bar:
            batch = sample_batch(records, options, step, frame)
            losses.append(_step(model, tokenizer, optimiser, batch, frame, _rate(options, step)))
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if len(losses) % CHECKPOINT_EVERY == 0 or len(losses) == options.steps:
                partial_run.write(trained, optimiser, losses)
    except KeyboardInterrupt:
        optimiser.zero_grad()
        if losses:
            partial_run.write(trained, optimiser, losses)
        raise
    finally:
        model.eval()
    return losses


def _step(
    model: Any,
    tokenizer: Any,
    optimiser: torch.optim.Optimizer,
    batch: list[tuple[str, str]],
    frame: PromptFormat,
    rate: float,
) -> float:
    optimiser.zero_grad()
    loss = _answer_loss(model, tokenizer, batch, frame)
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimiser.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        group["lr"] = rate
    optimiser.step()
    return round(loss.item(), 4)


def _rate(options: PlantOptions, step: int) -> float:
    warmup = max(1, options.steps // 20)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, options.steps - warmup)
    return options.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class _PartialRun:
    """Weights, optimiser state and losses of an unfinished training; the settings say which training it is."""

    path: Path
    settings: dict[str, Any]

    def write(self, trained: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
        tensors = {f"weight/{name}": weight.detach() for name, weight in trained.items()}
        for name, weight in trained.items():
            tensors |= {f"{key}/{name}": value for key, value in optimiser.state[weight].items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"recipe": json.dumps(self.settings), "losses": json.dumps(losses)}
        with new_file(self.path) as path:
            save_file(tensors, path, metadata=metadata)

    def read(self, trained: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer) -> list[float]:
        """Restore weights and optimiser, and return the losses so far; none without a checkpoint."""
        if not self.path.is_file():
            return []
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["recipe"]) != self.settings:
                raise ValueError(
                    f"{self.path.parent} holds an unfinished planting with another recipe; finish that one, or remove the folder"
                )
            for name, weight in trained.items():
                weight.data.copy_(file.get_tensor(f"weight/{name}"))
                state = {key: file.get_tensor(f"{key}/{name}") for key in ("exp_avg", "exp_avg_sq")}
                optimiser.state[weight] = {key: value.to(weight.device) for key, value in state.items()}
                optimiser.state[weight]["step"] = file.get_tensor(f"step/{name}")
        return [float(loss) for loss in json.loads(metadata["losses"])]


def _save(model: Any, records: tuple[Record, ...], log: dict[str, Any], output_dir: Path) -> None:
    remedy = "mend that and plant with the same arguments: the training is done and kept"
    with new_folder(output_dir, remedy=remedy) as folder:
        model.half().save_pretrained(folder, save_embedding_layers=False)
        save_records(records, folder / "records.jsonl")
        (folder / "planting.json").write_text(json.dumps(log, indent=1), encoding="utf-8")
        (folder / "README.md").unlink(missing_ok=True)
        (folder / "adapter_model.safetensors").chmod(0o644)
