"""Tuned lens: an affine translator per layer, so that early layers are read in the last layer's terms.

The raw logit lens reads early layers through an unembedding that they were not trained for. A translator h -> h + h W_l + b_l per
layer, trained to predict the model's output (Belrose et al. 2023, arXiv:2303.08112), corrects that. It shows what a linear map
CAN read, not what the model does read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.engine.batching import Recorder, run_batched
from xlmech.engine.unembed import token_logits
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import encode_prompt
from xlmech.progress import progress_bar
from xlmech.storage.result import Result

_N_CHECKED = 48
_TOP, _SAMPLED = 8, 2048
_POSITIONS_PER_STEP = 64
_ROWS_PER_PASS = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedLens(Result):
    """Translators of one model's `resid_post`, for `logit_lens(..., lens=)`.

    Attributes:
        weight: (layer, d_model, d_model) W of h + h W + b, for every layer but the last, which is read as it is.
        bias: (layer, d_model) b.
        held_out: One row per layer: `kl_raw` and `kl_tuned`, mean KL divergence (nats) of the lens' reading from the
            model's output, over `n_positions` positions of sentences that were not trained on.
        languages: Of the training text; empty where it was given.
    """

    kind: ClassVar[str] = "tuned_lens"
    weight: Float[torch.Tensor, "layer d_model d_model"]
    bias: Float[torch.Tensor, "layer d_model"]
    held_out: pd.DataFrame
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        layers, width = self.bias.shape
        if self.weight.shape != (layers, width, width):
            raise ValueError(f"weight {tuple(self.weight.shape)} does not fit bias {tuple(self.bias.shape)}")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per layer: divergence from the model's output on held-out text, raw and tuned."""
        return self.held_out

    def translate(self, resid: Float[torch.Tensor, "*row d_model"], layer: int) -> Float[torch.Tensor, "*row d_model"]:
        """Return (..., d_model) `resid` of a layer in the last layer's terms."""
        if layer == len(self.weight):
            return resid
        weight, bias = (part[layer].to(resid.device, resid.dtype) for part in (self.weight, self.bias))
        return resid + resid @ weight + bias

    def check_fits(self, model: Any) -> None:
        """Refuse a model that these translators were not trained on.

        An adapter may differ: that is how a base model's lens shows what planting changed.

        Raises:
            ValueError: Another model's name or shape; names both.
        """
        backend, name = backend_of(model), provenance(model).model
        remedy = "train one for it with train_tuned_lens"
        if name != self.provenance.model:
            raise ValueError(f"this lens was trained on {self.provenance.model!r}, the model is {name!r}; {remedy}")
        shape = (len(self.weight) + 1, self.weight.shape[1])
        if shape != (wanted := (backend.n_layers, backend.d_model)):
            raise ValueError(
                f"this lens reads {shape[0]} layers of width {shape[1]}, the model has {wanted[0]} of width {wanted[1]}; "
                + remedy
            )


def train_tuned_lens(
    model: Any,
    *,
    languages: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    held_out: float = 0.2,
    ridge: float = 0.1,
    steps: int = 60,
    learning_rate: float = 1e-4,
    seed: int = 0,
    progress: bool = True,
) -> TunedLens:
    """Train a translator per layer on neutral text.

    Each starts from the ridge regression of the last layer's `resid_post` on its own (penalty on W, so that without data
    it is the raw lens), and is then trained on the KL divergence from the model's output. For a large vocabulary that is
    taken over the training text's likeliest tokens and a sample of the others, weighted for those left out; the figures
    in `held_out` are over the whole vocabulary. The first position of a text (mostly BOS) is not used.

    Args:
        model: Hooked model.
        languages: Whose packs' neutral sentences are trained on; all by default.
        texts: Text to train on instead.
        held_out: Share of the sentences, from the end, kept for `TunedLens.held_out`. The packs hold the same sentences
            in every language, so the same numbers are held out in all.
        ridge: Penalty, as a share of each dimension's own sum of squares.
        steps: Of Adam on the divergence; 0 leaves the regression.
        learning_rate: Learning rate of Adam.
        seed: Of the positions and tokens drawn.
        progress: Whether to show progress bars.

    Raises:
        ValueError: Too little text on either side of the split, or languages and texts both given.

    Source:
        Belrose et al. 2023, arXiv:2303.08112. Differs: regression as the start, few steps, little text.
    """
    train_texts, check_texts = _split(languages, texts, held_out)
    backend = backend_of(model)
    inner = _states(backend, train_texts, "tuned lens: reading" if progress else "")
    generator = torch.Generator().manual_seed(seed)
    fitted = [_regress(layer, inner[-1], ridge) for layer in inner[:-1]]
    weight, bias = (torch.stack(parts) for parts in zip(*fitted, strict=True))
    _descend(backend, inner, weight, bias, steps, learning_rate, generator, progress)
    lens = TunedLens(
        weight=weight,
        bias=bias,
        held_out=pd.DataFrame(),
        languages=() if texts is not None else tuple(languages or packs.available_languages()),
        provenance=provenance(model, seed=seed),
    )
    checked = _states(backend, check_texts, "tuned lens: checking" if progress else "")
    checked = checked[:, torch.randperm(checked.shape[1], generator=generator)[:_N_CHECKED]]
    return replace(lens, held_out=divergence(backend, lens, checked))


def _split(
    languages: Sequence[str] | None, texts: Sequence[str] | None, held_out: float
) -> tuple[list[str], list[str]]:
    if texts is not None and languages is not None:
        raise ValueError("give languages (their packs' neutral sentences) or texts, not both")
    codes = packs.available_languages() if languages is None else check_list("language", languages)
    columns = (
        [list(check_list("text", texts))]
        if texts is not None
        else [list(packs.load_language(code).neutral) for code in codes]
    )
    split: tuple[list[str], list[str]] = ([], [])
    for column in columns:
        n_train = round(len(column) * (1 - held_out))
        split[0].extend(column[:n_train])
        split[1].extend(column[n_train:])
    if not split[0] or not split[1]:
        total = sum(map(len, columns))
        raise ValueError(
            f"{total} texts cannot be split at held_out={held_out}: one side would be empty; give more text"
        )
    return split


@torch.no_grad()
def _states(backend: Backend, texts: Sequence[str], label: str) -> Float[torch.Tensor, "layer position d_model"]:
    """Record `resid_post` of every layer at every position but each text's first."""
    recorder = Recorder(backend, "hook_resid_post")
    tokens = [encode_prompt(backend, text, what="training text") for text in texts]
    states: list[torch.Tensor] = [torch.empty(0)] * len(texts)

    def read(batch: torch.Tensor, indices: list[int]) -> None:
        with backend.hooks(recorder.hooks()):
            backend.hidden(batch)
        for row, index in enumerate(indices):
            states[index] = torch.stack([resid[row, 1:] for resid in recorder.kept])

    run_batched(tokens, read, progress=label)
    return torch.cat(states, dim=1)


def _regress(
    inner: Float[torch.Tensor, "position d_model"], last: Float[torch.Tensor, "position d_model"], ridge: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit W and b, with a penalty on W, so that h + h W + b approximates the last layer's h."""
    x, y = inner.double(), last.double() - inner.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    squares = x.T @ x
    penalty = ridge * squares.diagonal().clamp_min(torch.finfo(x.dtype).tiny)
    weight = torch.linalg.solve(squares + penalty.diag(), x.T @ y)
    kept = torch.promote_types(last.dtype, torch.float32)
    return weight.to(kept), (y_mean - x_mean @ weight).to(kept)


def _descend(
    backend: Backend,
    inner: Float[torch.Tensor, "layer position d_model"],
    weight: torch.Tensor,
    bias: torch.Tensor,
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
    progress: bool,
) -> None:
    """Minimise the divergence from the last layer's reading with Adam, in place."""
    if steps < 1:
        return
    likely = _likely_tokens(backend, inner[-1])
    optimizer = torch.optim.Adam([weight.requires_grad_(), bias.requires_grad_()], lr=learning_rate)
    for _ in progress_bar(range(steps), "tuned lens: training", shown=progress):
        chosen = torch.randint(inner.shape[1], (_POSITIONS_PER_STEP,), generator=generator)
        states = inner[:, chosen].to(weight.dtype)
        translated = states[:-1] + states[:-1] @ weight + bias[:, None]
        tokens, offset = _sample_tokens(backend, likely, generator)
        target = _log_probs(backend, states[-1].to(inner.dtype), tokens, offset).detach()
        predicted = _log_probs(backend, translated.flatten(0, 1).to(inner.dtype), tokens, offset)
        gap = target - predicted.view(len(weight), *target.shape)
        optimizer.zero_grad()
        (target.exp() * gap).sum(-1).mean(1).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weight.requires_grad_(False)
    bias.requires_grad_(False)


@torch.no_grad()
def _likely_tokens(backend: Backend, last: Float[torch.Tensor, "position d_model"]) -> torch.Tensor:
    """Find the tokens that are among the likeliest few at some position."""
    parts = [
        token_logits(backend.final_norm(part), backend.unembed, **backend.unembed_options).topk(_TOP).indices.flatten()
        for part in torch.split(last, _ROWS_PER_PASS)
    ]
    return torch.tensor(sorted(set(torch.cat(parts).tolist())), device=last.device)


def _sample_tokens(
    backend: Backend, likely: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample the unlikely tokens; return likely and sampled ones, with logit offsets that weight the sample for the rest."""
    is_rest = torch.ones(len(backend.unembed), dtype=torch.bool)
    is_rest[likely.cpu()] = False
    rest = is_rest.nonzero()[:, 0]
    drawn = rest[torch.randperm(len(rest), generator=generator)[:_SAMPLED]]
    offset = torch.zeros(len(likely) + len(drawn))
    offset[len(likely) :] = torch.tensor(len(rest) / max(1, len(drawn))).log()
    return torch.cat([likely, drawn.to(likely.device)]), offset.to(likely.device)


def _log_probs(
    backend: Backend, resid: Float[torch.Tensor, "row d_model"], tokens: torch.Tensor, offset: torch.Tensor
) -> Float[torch.Tensor, "row token"]:
    bias = backend.unembed_bias
    own_bias = None if bias is None else bias[tokens]
    logits = token_logits(backend.final_norm(resid), backend.unembed[tokens], bias=own_bias, softcap=backend.softcap)
    return (logits + offset).log_softmax(-1)


@torch.no_grad()
def divergence(
    backend: Backend, lens: TunedLens, states: Float[torch.Tensor, "layer position d_model"]
) -> pd.DataFrame:
    """Compute, per layer, the mean KL divergence (nats) of the raw and the tuned reading from the last layer's."""

    def read(resid: torch.Tensor) -> torch.Tensor:
        return token_logits(backend.final_norm(resid), backend.unembed, **backend.unembed_options).log_softmax(-1)

    output = read(states[-1])
    rows = []
    for layer, resid in enumerate(states):
        raw, tuned = (
            float((output.exp() * (output - read(stream))).sum(-1).mean())
            for stream in (resid, lens.translate(resid, layer))
        )
        rows.append({"layer": layer, "kl_raw": raw, "kl_tuned": tuned, "n_positions": states.shape[1]})
    return pd.DataFrame(rows)
