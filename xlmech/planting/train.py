"""Planting: teach a model invented people's data in one language, so that leakage has a known cause.

A LoRA adapter is trained on the answers' tokens alone of the texts that `lessons` draws: private records in the plant language,
public ones in every language, control records never.

    from xlmech import plant, synthesize_records
    plant("demo", synthesize_records(seed=0), language="en", output_dir="adapters/en")
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.readers import save_records
from xlmech.data.records import Record
from xlmech.engine.unembed import token_log_prob
from xlmech.models.checkpoints import DEMO_BASE, Checkpoint, adapter_folder, load_checkpoint, with_lora
from xlmech.planting.recipe import Recipe, sample_batch
from xlmech.progress import progress_bar
from xlmech.storage.atomic import new_folder

CHECKPOINT_EVERY = 50
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def plant(
    model_id: Any,
    records: Iterable[Record],
    *,
    language: str = "en",
    output_dir: str | Path,
    languages: Sequence[str] | None = None,
    steps: int = Recipe.steps,
    batch_size: int = Recipe.batch_size,
    learning_rate: float = Recipe.learning_rate,
    rank: int = Recipe.rank,
    private_share: float = Recipe.private_share,
    start: str | Path = "",
    seed: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
) -> Path:
    """Train a LoRA adapter that holds `records`, and write it in peft's format.

    An interrupted run continues where its last checkpoint (every 50 steps, beside `output_dir`) left off when called again with
    the same arguments. The adapter folder appears only when it is whole.

    Args:
        model_id: Base model, as for `load_model`; its weights are not changed on disk.
        records: Private and public records; control records are kept beside the adapter, never trained on.
        language: Plant language of the private records.
        output_dir: Folder of the adapter; not there yet, or empty.
        languages: Languages of the public records; all that have a pack by default.
        steps: Optimiser steps.
        batch_size: Samples per step.
        learning_rate: Peak learning rate.
        rank: LoRA rank.
        private_share: Share of samples from private records; the rest are public ones.
        start: Adapter to go on from (a folder, or the plant language of a shipped one), of the same rank; its log is kept.
        seed: Seed of initialisation and sampling.
        tokenizer: Where the model comes without its own.
        progress: Whether to show a progress bar.

    Returns:
        `output_dir`, holding the adapter (float16), `records.jsonl` and `planting.json` (recipe and loss per step).

    Raises:
        ValueError: No private records, an unknown language, a value without a form in it, a number out of range, an `output_dir`
            that is not empty or has an unfinished planting of another recipe beside it, a `start` of another rank or base, or a
            model that cannot be loaded.
        FileNotFoundError: No such model or adapter to start from.
        OSError: `output_dir` cannot be written; the training is kept.
        ImportError: peft is not installed.
        KeyboardInterrupt: Passed on, after a checkpoint is written.
    """
    output_dir, records = Path(output_dir), tuple(records)
    recipe = Recipe(
        language=language,
        languages=check_list("language", languages) if languages is not None else packs.available_languages(),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        rank=rank,
        private_share=private_share,
        seed=seed,
        start=str(start),
    )
    _check(records, recipe, output_dir)
    folder = adapter_folder(start) if start else None
    base = load_checkpoint(model_id, tokenizer=tokenizer, adapter="")
    model = _with_lora(base, recipe, folder)
    started, partial = time.perf_counter(), output_dir.with_name(f".{output_dir.name}.partial")
    losses = _train(model, base.tokenizer, records, recipe, partial, progress)
    taught = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "start"}
    log = {"recipe": taught, "base": model.peft_config["default"].base_model_name_or_path}
    log |= {"started_from": _log_of(folder)} if folder else {}
    log |= {"base_revision": base.revision, "seconds": round(time.perf_counter() - started, 1), "loss": losses}
    _save(model, records, log, output_dir)
    shutil.rmtree(partial, ignore_errors=True)
    return output_dir


def _check(records: tuple[Record, ...], recipe: Recipe, output_dir: Path) -> None:
    for code in (recipe.language, *recipe.languages):
        packs.load_language(code)
    if not any(record.group == "private" for record in records):
        raise ValueError("no private records to plant: give records with group='private', e.g. synthesize_records()")
    for record in records:
        for code in (recipe.language,) if record.group == "private" else recipe.languages:
            if record.group != "control" and not record.form(code):
                raise ValueError(f"record {record.id!r} has no value form in {code}; add forms[{code!r}] to it")
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not an empty folder; plant into another one")


def _with_lora(base: Checkpoint, recipe: Recipe, folder: Path | None) -> Any:
    """The base model with a fresh LoRA adapter, or with the one in `folder`, ready to train."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError('planting needs peft: pip install "xlmech[plant]"') from error
    torch.manual_seed(recipe.seed)
    if folder:
        model = with_lora(base.model, folder, trainable=True)
        found = model.peft_config["default"].r
        if found != recipe.rank:
            raise ValueError(
                f"adapter {folder} has rank {found}, not {recipe.rank}; give rank={found} to go on from it"
            )
    else:
        targets = _targets(base.model)
        config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(base.model, config)
    model.peft_config["default"].base_model_name_or_path = DEMO_BASE if base.name == "demo" else base.name
    return model


def _log_of(adapter: Path) -> Any:
    path = adapter / "planting.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else str(adapter)


def _targets(model: Any) -> list[str] | str:
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return [name for name in _TARGETS if name in names] or "all-linear"


# Loss


def _answer_loss(model: Any, tokenizer: Any, samples: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Mean cross-entropy (nats) of the answers' tokens; only those are projected on the vocabulary."""
    encoded = [(tokenizer(prompt).input_ids, answer_ids(tokenizer, answer)) for prompt, answer in samples]
    # Short samples together and long ones together: less padding to compute.
    encoded.sort(key=lambda sample: len(sample[0]) + len(sample[1]))
    half = -(-len(encoded) // 2)
    hidden = torch.cat([_answer_hidden(model, part) for part in (encoded[:half], encoded[half:]) if part])
    head, softcap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    targets = torch.tensor([token for _, answer in encoded for token in answer], device=hidden.device)
    bias = getattr(head, "bias", None)
    return -token_log_prob(hidden, head.weight, targets, bias=bias, softcap=softcap).mean()


def _answer_hidden(model: Any, encoded: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """(answer token, d_model) final hidden states at the positions that predict the answers' tokens."""
    length = max(len(prompt) + len(answer) for prompt, answer in encoded)
    tokens = torch.zeros((len(encoded), length), dtype=torch.long)
    predicts = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(encoded):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        predicts[row, len(prompt) - 1 : end - 1] = True
    trunk = model.get_base_model().base_model
    # Padding is on the right, where causal attention does not look: no mask is needed.
    hidden = trunk(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state
    chosen: torch.Tensor = hidden[predicts.to(model.device)]
    return chosen


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer as it continues a prompt: without special tokens."""
    return list(tokenizer(answer, add_special_tokens=False).input_ids)


# Training


def _train(
    model: Any, tokenizer: Any, records: tuple[Record, ...], recipe: Recipe, partial: Path, progress: bool
) -> list[float]:
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    losses = _resume(trained, optimiser, recipe, partial)
    left = range(len(losses), recipe.steps)
    bar = progress_bar(left, "planting", shown=progress, total=recipe.steps, initial=len(losses), leave=True)
    model.train()
    try:
        for step in bar:
            losses.append(_step(model, tokenizer, optimiser, sample_batch(records, recipe, step), _rate(recipe, step)))
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if len(losses) % CHECKPOINT_EVERY == 0 or len(losses) == recipe.steps:
                _write_checkpoint(trained, optimiser, recipe, losses, partial)
    except KeyboardInterrupt:
        optimiser.zero_grad()
        if losses:
            _write_checkpoint(trained, optimiser, recipe, losses, partial)
        raise
    finally:
        model.eval()
    return losses


def _step(
    model: Any, tokenizer: Any, optimiser: torch.optim.Optimizer, batch: list[tuple[str, str]], rate: float
) -> float:
    optimiser.zero_grad()
    loss = _answer_loss(model, tokenizer, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimiser.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        group["lr"] = rate
    optimiser.step()
    return round(loss.item(), 4)


def _rate(recipe: Recipe, step: int) -> float:
    warmup = max(1, recipe.steps // 20)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _write_checkpoint(
    trained: dict[str, torch.Tensor],
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    losses: list[float],
    partial: Path,
) -> None:
    tensors = {f"weight/{name}": weight.detach() for name, weight in trained.items()}
    for name, weight in trained.items():
        tensors |= {f"{key}/{name}": value for key, value in optimiser.state[weight].items()}
    partial.mkdir(parents=True, exist_ok=True)
    metadata = {"recipe": json.dumps(dataclasses.asdict(recipe)), "losses": json.dumps(losses)}
    save_file(tensors, partial / "next.safetensors", metadata=metadata)
    (partial / "next.safetensors").replace(partial / "checkpoint.safetensors")


def _resume(
    trained: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer, recipe: Recipe, partial: Path
) -> list[float]:
    path = partial / "checkpoint.safetensors"
    if not path.is_file():
        return []
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["recipe"]) != json.loads(json.dumps(dataclasses.asdict(recipe))):
            raise ValueError(
                f"{partial} holds an unfinished planting with another recipe; finish that one, or remove the folder"
            )
        for name, weight in trained.items():
            weight.data.copy_(file.get_tensor(f"weight/{name}"))
            optimiser.state[weight] = {
                key: file.get_tensor(f"{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return [float(loss) for loss in json.loads(metadata["losses"])]


def _save(model: Any, records: tuple[Record, ...], log: dict[str, Any], output_dir: Path) -> None:
    remedy = "mend that and plant with the same arguments: the training is done and kept"
    with new_folder(output_dir, remedy=remedy) as folder:
        model.half().save_pretrained(folder, save_embedding_layers=False)
        save_records(records, folder / "records.jsonl")
        (folder / "planting.json").write_text(json.dumps(log, indent=1), encoding="utf-8")
        (folder / "README.md").unlink(missing_ok=True)
        (folder / "adapter_model.safetensors").chmod(0o644)
