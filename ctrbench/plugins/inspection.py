"""Arrays that a method reports about its trained model, for studies to plot.

`Method.inspect` returns an `Inspection`; a run stores it beside its predictions, and study drawings read it. Imports
no torch, so that reports stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

_DOMAIN, _ROWS, _PREDICTIONS, _STAGES, _KEPT = "domain", "rows", "predictions", "stages", "kept{index}"


@dataclass(frozen=True, kw_only=True)
class GateSite:
    """A gate on the input of one stage. Shapes: D domains with test rows, N gated neurons."""

    stage: str
    """Name of the stage that reads the gated input, such as `tower0`, `head` or `cross.1`."""
    kept_DN: np.ndarray
    """Float32 in [0, 1], (D, N): share of the domain's test rows for which the neuron is not pruned."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Gates of a trained model, per domain of the test split.

    >>> site = GateSite(stage="head", kept_DN=np.array([[1.0, 0.0], [0.5, 1.0]], dtype=np.float32))
    >>> seen = Inspection(domain_D=np.array([1, 4]), rows_D=np.array([20, 2]), sites=(site,))
    >>> seen.site("head").kept_DN.shape
    (2, 2)
    """

    domain_D: np.ndarray
    """Int64, (D,): ids of the domains with test rows, ascending."""
    rows_D: np.ndarray
    """Int64, (D,): test rows of each domain."""
    sites: tuple[GateSite, ...]
    """Gates in the order of the model's stages."""
    predictions: str = ""
    """Sha256 of the predictions of the inspected model; the run fills it in."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages whose inputs are gated."""
        return tuple(site.stage for site in self.sites)

    def site(self, stage: str) -> GateSite:
        """Return the gate on the input of a stage; raises `KeyError` where there is none."""
        for site in self.sites:
            if site.stage == stage:
                return site
        raise KeyError(stage)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the content as named arrays, for `numpy.savez`."""
        kept = {_KEPT.format(index=i): site.kept_DN for i, site in enumerate(self.sites)}
        return {
            _PREDICTIONS: np.array(self.predictions),
            _DOMAIN: self.domain_D,
            _ROWS: self.rows_D,
            _STAGES: np.array(self.stages, dtype=str),
            **kept,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return the content of `arrays`; raises `KeyError` for arrays of another form."""
        sites = tuple(
            GateSite(stage=str(stage), kept_DN=arrays[_KEPT.format(index=i)])
            for i, stage in enumerate(arrays[_STAGES])
        )
        return cls(
            domain_D=arrays[_DOMAIN],
            rows_D=arrays[_ROWS],
            sites=sites,
            predictions=str(arrays[_PREDICTIONS]),
        )
