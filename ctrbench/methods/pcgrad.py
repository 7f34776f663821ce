"""PCGrad: gradients of domains that conflict are projected onto each other's normal plane before each step.

Paper: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020
Year: 2020
Uses: the indicator p, in training only, to separate gradients
Parameters per domain: none

Tasks are the domains of a mixed batch of B rows, θ are the dense weights, l_r is the cross-entropy of row r
(spec: pcgrad-7.13):

    g_i = ∇_θ (1/B) Σ_{r of i} l_r,  so that Σ_i g_i = ∇_θ L
    h_i ← g_i, then for every other j in random order   h_i ← h_i - min(0, h_i · g_j) / ‖g_j‖² g_j
    θ   ← Adam(Σ_i h_i + ∇_θ penalties)

g_j is always the original gradient. Where no two gradients conflict, the step is bit-equal to the ordinary one. All h_i
· g_j follow from the products g_i · g_j, so each pair of vectors is multiplied once and no step waits for the device to
know a sign.

Plan: unchanged; the learner changes the gradient of dense weights.

Choices: a domain counts by its rows, where the paper adds the means of tasks, so that the projection is the only
difference from ordinary training. Embeddings and rows of per-domain tables take the ordinary gradient: each belongs to
few domains. Penalties belong to no domain; their gradient is added unchanged. The first `groups - 1` groups of
`Routing`, the largest up to a factor of two, are separate tasks, and all further ones form one task. The first g_i is
the whole gradient minus the others, so G groups cost G backward passes. Orders are drawn again for each i and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch

from ctrbench.extend import (
    Batch,
    Choices,
    CTRModel,
    Field,
    Learner,
    Method,
    Optimizer,
    Order,
    Plan,
    SplitData,
    StepOutput,
    bce,
)


class PCGrad(Method):
    """The unchanged plan, trained with projected gradients of domains."""

    indexed_by = "indicator"

    groups: Annotated[int, Choices(2, 4, 8)] = Field(default=8, ge=2, le=256)
    """Largest number of separate gradients per batch; with more domains, the last one is that of all others."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    def learner(self) -> Learner:
        """Return ordinary mixed batches with projected gradients."""
        return PCGradLearner(self.groups)

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: initial logits equal the backbone's."""
        return 0.0


class PCGradLearner(Learner):
    """Trains as usual, but projects conflicting domain gradients of dense weights before each step."""

    refuses_workers = "PCGrad makes its own steps, which ignore the rows of other workers"

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.seed = 0
        """Seed of an epoch's orders; the orders of a step follow from it and the number of the step."""

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Return the rows in the order of ordinary training."""
        order = super().order(train, batch_size=batch_size, generator=generator)
        self.seed = int(generator.integers(1 << 62))
        return order

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make one step; log the share of conflicting pairs of groups as `conflicts`."""
        optimizer.begin()
        context = model.context(batch, optimizer)
        logit_B = model.net(context)
        loss = bce(logit_B, batch.label_B)
        weighted = loss * batch.weight
        torch.autograd.backward(weighted, retain_graph=True)
        num_groups = min(context.routing.num_groups, self.groups)
        if num_groups > 1:
            (error_B,) = torch.autograd.grad(weighted, logit_B, retain_graph=True)
            group_B = context.routing.index_B.clamp_max(num_groups - 1)
            errors = [error_B * (group_B == group) for group in range(1, num_groups)]
            context.logs["conflicts"] = self._project(optimizer, logit_B, errors)
        if context.penalties:
            torch.autograd.backward(torch.stack(context.penalties).sum())
        optimizer.step()
        return StepOutput(loss=loss.detach(), rows=len(batch), logs=context.logs)

    def _project(
        self, optimizer: Optimizer, logit_B: torch.Tensor, errors: list[torch.Tensor]
    ) -> torch.Tensor:
        """Subtract the conflicting parts from the gradient of dense weights; return the share of conflicting pairs.

        `errors` are ∂L/∂logit, (B,), of all groups but the first.
        """
        weights = [weight for weight in optimizer.dense_view().parameters if weight.grad is not None]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        parts = [
            _flatten(torch.autograd.grad(logit_B, weights, error, retain_graph=True)) for error in errors
        ]
        rest_NP = torch.stack(parts)
        grads_GP = torch.cat([(_flatten(grads) - rest_NP.sum(0))[None], rest_NP])
        gram_GG = grads_GP @ grads_GP.T
        others_GO = self._order_of_others(len(grads_GP), optimizer.steps, gram_GG.device)
        lost_P = conflict_weights(gram_GG, others_GO) @ grads_GP
        for grad, part in zip(grads, torch.split(lost_P, [grad.numel() for grad in grads]), strict=True):
            grad -= part.view_as(grad)
        return (gram_GG < 0).sum() / others_GO.numel()

    def _order_of_others(self, num_groups: int, step: int, device: torch.device) -> torch.Tensor:
        """Draw for each group the order of the others, (G, G - 1)."""
        generator = np.random.default_rng([self.seed, step])
        offsets = generator.permuted(np.tile(np.arange(1, num_groups), (num_groups, 1)), axis=1)
        others = torch.from_numpy((np.arange(num_groups)[:, None] + offsets) % num_groups)
        return others if device.type == "cpu" else others.pin_memory().to(device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the orders."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state returned by `state_dict`."""
        self.seed = state["seed"]


def conflict_weights(gram_GG: torch.Tensor, others_GO: torch.Tensor) -> torch.Tensor:
    """Return c such that Σ_i h_i = Σ_i g_i - Σ_j c_j g_j, from the products g_i · g_j and each i's order of others."""
    # dot is h_i · g_j; share is the coefficient of g_j subtracted from g_i, never positive.
    dot_GG, share_GG = gram_GG.clone(), torch.zeros_like(gram_GG)
    square_G = gram_GG.diagonal().clamp_min(torch.finfo(gram_GG.dtype).tiny)
    for other_G in others_GO.unbind(1):
        share_G1 = dot_GG.gather(1, other_G[:, None]).clamp_max(0.0) / square_G[other_G][:, None]
        dot_GG = torch.addcmul(dot_GG, share_G1, gram_GG[other_G], value=-1.0)
        share_GG.scatter_(1, other_G[:, None], share_G1)
    return share_GG.sum(0)


def _flatten(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([grad.flatten() for grad in grads])
