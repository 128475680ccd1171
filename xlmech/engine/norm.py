"""A norm with its scale frozen at the value of one run: an affine map, which applies to a sum term by term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float

from xlmech.models.backends import Backend

_TOLERANCE = 2e-2


@dataclass(frozen=True, kw_only=True)
class FrozenNorm:
    """A LayerNorm or RMSNorm as an affine map, once its scale is given: (x [- mean of x]) * gain / scale + offset.

    Attributes:
        gain: (d_model,)
        offset: (d_model,)
        centres: Whether x's mean is subtracted (LayerNorm).
    """

    gain: Float[torch.Tensor, " d_model"]
    offset: Float[torch.Tensor, " d_model"]
    centres: bool

    @classmethod
    @torch.no_grad()
    def of(cls, backend: Backend, module: Callable[[torch.Tensor], torch.Tensor] | None = None) -> FrozenNorm:
        """Measure the final norm, or another, by its output for chosen vectors.

        Architectures keep the gain in different ways (Gemma as 1 + weight), which makes no difference to this measurement.
        """
        size, dtype_and_device, norm = backend.d_model, backend.unembed, module or backend.final_norm

        def output(vector: torch.Tensor) -> torch.Tensor:
            return norm(vector.to(dtype_and_device)[None, None])[0, 0].double()

        odd = torch.arange(size) % 2 == 1
        # Zero mean and no zero; so large that the norm's epsilon is negligible.
        probe = torch.where(odd, -1e4, 1e4 * odd.sum() / (~odd).sum()).to(dtype_and_device).double()
        offset = output(torch.zeros(size))
        gain = (output(probe) - offset) * probe.square().mean().sqrt() / probe
        constant = output(torch.ones(size)) - offset
        return cls(gain=gain, offset=offset, centres=bool(constant.abs().max() < 1e-3 * gain.abs().max()))

    def over_scale(self, backend: Backend, resid: Float[torch.Tensor, " d_model"]) -> Float[torch.Tensor, " d_model"]:
        """Return the (d_model,) gain / scale, with the scale that the model's final norm has at `resid`.

        Raises:
            ValueError: The norm is not such a map at `resid`.
        """
        stream = resid.double()
        unscaled = (stream - stream.mean() if self.centres else stream) * self.gain
        normed = backend.final_norm(resid[None, None])[0, 0].double() - self.offset
        scale = unscaled.square().sum() / (unscaled @ normed)
        if not (normed - unscaled / scale).norm() < _TOLERANCE * normed.norm():
            raise ValueError(
                f"the final norm ({type(backend.model.ln_final).__name__}) is neither a LayerNorm nor an RMSNorm, so its "
                "scale cannot be held; direct logit attribution is not defined for this model"
            )
        return self.gain / scale
