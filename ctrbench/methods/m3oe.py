"""M3oE: shared experts under a domain's gate, beside experts of the domains with a learned balance.

Paper: Zhang et al., M3oE: Multi-Domain Multi-Task Mixture-of-Experts Recommendation Framework, SIGIR 2024
Year: 2024
Uses: the indicator p and the tower's input
Parameters per domain: W_p and b_p of the first layer, one gate, one head, and one expert, which every row runs through

With z the tower's input, E shared experts f_e and one expert f_q per domain (spec: m3oe-7.10):

    x = φ(LN(z (W ⊙ W_p) + b + b_p)) + z P + c
    u = Σ_e softmax(sg(x) G_p + g_p)_e f_e(x) + w_d (b f_p(x) + (1 - b) / (M - 1) Σ_{q≠p} f_q(x))
    s = head_p(u), or head_p([interactions ; u]) in a parallel plan

The balance b and the weight w_d are scalars, sigmoids of numbers that start at zero, and are learned with all other
parameters. With `learn=bilevel` an Adam of their own (rate 1e-3) makes one step on them per epoch, on the cross-entropy
of one batch of held-out rows, while all other parameters are learned with b and w_d fixed.

Plan: the tower becomes the inner part of one stage; the head becomes one per domain.

Choices: each expert has the widths of the backbone's tower, for fair comparison, with layer normalization before each
activation; x is as wide as the first layer. W_p = 1 and b_p = 0 at the start (spec: star-2.4). Gates start alike and
experts at different weights. The paper's towers are the dense stages of the plan, one per domain. A row of an unseen
domain has the shared weights in the first layer, equal shares of all domains' experts, and gate and head of the largest
domain (spec: conventions-0.4). With one domain the term of the other domains is absent. The bi-level batch consists of
one training row in 50, chosen by a hash of its number and therefore the same in every epoch and run: dev is reserved
for selection, and rows that the weights have fitted, as published, say little about b and w_d. For its step the model
is in eval mode; the step comes at the end of an epoch, before dev is scored.

Not implemented: the experts of the task, since there is one task.

Limits: every row runs through all E + M experts, at E + M times the cost of a tower, so more domains than `max_domains`
are refused, and experts of absent domains get gradients too (an exemption of rule 3 in spec: conventions-0.5). At one
step of 1e-3 per epoch, bi-level learning leaves b and w_d close to 1/2.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ctrbench.extend import (
    Batch,
    Build,
    Capabilities,
    Choices,
    Context,
    CTRModel,
    Dense,
    DenseBank,
    DomainDense,
    Field,
    LayerNorm,
    Learner,
    Method,
    Order,
    Plan,
    SplitData,
    Stage,
    StageModule,
    StarDense,
    added_field,
    bce,
    dense_stages,
    evaluating,
    refuse_many_domains,
    weighted_sum,
    with_prefix,
)

OUTER_LR = 1e-3
"""Learning rate of b and w_d."""
HELD_OUT = 50
"""One training row in this many is held out for b and w_d."""


class M3oe(Method):
    """Shared experts and one expert per domain on a first layer of star weights."""

    indexed_by = "indicator"

    experts: Annotated[int, Choices(2, 4, 8)] = Field(default=4, ge=2, le=256)
    """E, the number of shared experts."""
    max_domains: int = Field(default=32, ge=1, le=65_536)
    """Largest number of domains; every row runs through the experts of all."""
    learn: Literal["jointly", "bilevel"] = added_field("jointly")
    """Whether b and w_d are learned with the other parameters, or by one step per epoch on held-out rows."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with experts instead of its tower and one head per domain."""
        return plan.wrap_tower(self._mixture_stage).map_dense(DomainDense.like)

    def _mixture_stage(self, tower: tuple[Stage, ...]) -> Stage:
        return Experts(name="m3oe", tower=dense_stages(tower), settings=self)

    def learner(self) -> Learner:
        """Return ordinary training, or for `bilevel` the learner that holds out rows for b and w_d."""
        return BilevelLearner() if self.learn == "bilevel" else Learner()

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower has other stages than dense ones."""
        return (
            None
            if plan.has_dense_tower
            else "experts replace a tower of dense layers, and this plan has none"
        )


@dataclass(frozen=True, kw_only=True)
class Experts(Stage):
    """The first layer and the experts, mixed per domain."""

    tower: tuple[Dense, ...]
    settings: M3oe

    def build(self, num_inputs: int, build: Build) -> ExpertsModule:
        """Build the module; raise `SettingError` for too many domains."""
        refuse_many_domains(build.schema, self.settings.max_domains)
        return ExpertsModule(self, num_inputs, build)


class ExpertsModule(StageModule):
    """Computes `Experts`."""

    def __init__(self, stage: Experts, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.name, self.num_shared = stage.name, stage.settings.experts
        is_bilevel = stage.settings.learn == "bilevel"
        self.refuses_workers = "b and w_d are learned by steps of their own" if is_bilevel else None
        self.num_domains = build.schema.num_indicators
        self.first = FirstLayer(stage, num_inputs, build)
        width, self.num_outputs = self.first.num_outputs, stage.tower[-1].width
        self.shared = NormalizedTowers(
            with_prefix(stage.tower, f"{stage.name}.shared"), self.num_shared, width, build
        )
        self.own = NormalizedTowers(
            with_prefix(stage.tower, f"{stage.name}.own"), self.num_domains, width, build
        )
        self.own.of_domains = True
        gate = DomainDense(name=f"{stage.name}.gate", width=self.num_shared)
        self.gate = gate.build(self.first.num_outputs, build)
        self.balance, self.weight = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        for scalar in self.scalars:
            scalar.requires_grad_(stage.settings.learn == "jointly")

    @property
    def scalars(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Logits of b and w_d."""
        return self.balance, self.weight

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        x_BN = self.first(x_BN, context)
        gate_BK = self.gate(x_BN.detach(), context).softmax(1)
        weight = torch.sigmoid(self.weight)
        if self.training:
            context.logs[f"{self.name}.balance"] = torch.sigmoid(self.balance).detach()
            context.logs[f"{self.name}.weight"] = weight.detach()
        own_BM = weighted_sum(self.shares(context), self.own(x_BN, context))
        return weighted_sum(gate_BK, self.shared(x_BN, context)) + weight * own_BM

    def shares(self, context: Context) -> torch.Tensor:
        """Return each row's weights of the domains' experts, (B, M): b for its own, equal parts of 1 - b for others."""
        routing, own = context.routing, torch.sigmoid(self.balance)
        present_G1 = routing.present_G[:, None]
        domains_K = torch.arange(1, self.num_domains + 1, device=own.device)
        others = (1.0 - own) / max(1, self.num_domains - 1)
        share_GK = torch.where(present_G1 == domains_K, own, others)
        return routing.broadcast(torch.where(present_G1 > 0, share_GK, 1.0 / self.num_domains))


class FirstLayer(nn.Module):
    """φ(LN(z (W ⊙ W_p) + b + b_p)) + z P + c."""

    def __init__(self, stage: Experts, num_inputs: int, build: Build) -> None:
        super().__init__()
        first = stage.tower[0]
        self.num_outputs, self.output = first.width, first.make_output()
        self.star = StarDense(name=first.name, width=first.width).build(num_inputs, build)
        self.norm = LayerNorm(name=f"{stage.name}.norm").build(first.width, build)
        self.skip = Dense(name=f"{stage.name}.skip", width=first.width).build(num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        normed_BM = self.norm(self.star(x_BN, context), context)
        skipped_BM: torch.Tensor = self.skip(x_BN, context)
        activated_BM: torch.Tensor = self.output(normed_BM, context)
        return activated_BM + skipped_BM


class NormalizedTowers(nn.ModuleList, Capabilities):
    """K parallel towers, layer by layer."""

    def __init__(self, tower: tuple[Dense, ...], num_towers: int, num_inputs: int, build: Build) -> None:
        widths = [num_inputs, *(dense.width for dense in tower)]
        super().__init__(
            NormalizedBank(dense, num_towers, width, build)
            for dense, width in zip(tower, widths, strict=False)
        )

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (K, B, M)."""
        for bank in self:
            x = bank(x, context)
        return x


class NormalizedBank(nn.Module):
    """K parallel dense layers, φ(LN(h W_k + b_k)), each with its own γ_k and β_k."""

    def __init__(self, dense: Dense, num_layers: int, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.width, self.output = dense.width, dense.make_output(num_layers)
        products = Dense(name=dense.name, width=dense.width)
        self.bank = DenseBank(products, num_layers, num_inputs, build)
        self.scale = nn.Parameter(torch.ones(num_layers, 1, dense.width))
        self.shift = nn.Parameter(torch.zeros(num_layers, 1, dense.width))

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) or (K, B, N) to (K, B, M)."""
        normed_KBM = functional.layer_norm(self.bank(x, context), [self.width])
        output_KBM: torch.Tensor = self.output(torch.addcmul(self.shift, normed_KBM, self.scale), context)
        return output_KBM


class BilevelLearner(Learner):
    """Makes ordinary steps on the rows that are not held out, and per epoch one step of b and w_d on held-out rows.

    The state consists of the Adam of b and w_d, and of seed and batch size of the last order.
    """

    selects = True

    def __init__(self) -> None:
        super().__init__()
        self.adam: torch.optim.Adam | None = None
        self.restored: dict[str, Any] | None = None
        """State for an Adam that is not created yet."""
        self.seed, self.batch_size = 0, 1

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Return the rows that are not held out, shuffled; all rows if every one is held out."""
        is_held = is_held_out(train.row)
        rows = generator.permutation(np.flatnonzero(~is_held) if not is_held.all() else len(is_held))
        self.seed, self.batch_size = int(generator.integers(1 << 62)), batch_size
        return Order(rows=rows, starts=np.append(np.arange(0, len(rows), batch_size), len(rows)))

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Make the step of b and w_d on held-out training rows; return both."""
        (experts,) = (module for module in model.modules() if isinstance(module, ExpertsModule))
        rows = np.flatnonzero(is_held_out(train.row))
        if len(rows):
            rows = np.random.default_rng(self.seed).permutation(rows)[: self.batch_size]
            self._step_on_dev(model, experts, train.take(torch.from_numpy(rows)))
        b, w_d = (float(torch.sigmoid(logit)) for logit in experts.scalars)
        return {"balance": b, "weight": w_d}

    def _step_on_dev(self, model: CTRModel, experts: ExpertsModule, batch: Batch) -> None:
        adam = self._get_adam(experts)
        for scalar in experts.scalars:
            scalar.requires_grad_()
        with evaluating(model):
            loss = bce(model(batch), batch.label_B)
        for scalar, grad in zip(experts.scalars, torch.autograd.grad(loss, experts.scalars), strict=True):
            scalar.requires_grad_(False).grad = grad
        adam.step()
        adam.zero_grad()

    def _get_adam(self, experts: ExpertsModule) -> torch.optim.Adam:
        if self.adam is None:
            self.adam = torch.optim.Adam(experts.scalars, lr=OUTER_LR)
            if self.restored is not None:
                self.adam.load_state_dict(deepcopy(self.restored))
        return self.adam

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the balance's Adam, for checkpoints."""
        adam = self.restored if self.adam is None else deepcopy(self.adam.state_dict())
        return {"adam": adam, "seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state returned by `state_dict`."""
        self.adam, self.restored = None, state["adam"]
        self.seed, self.batch_size = state["seed"], state["batch_size"]


def is_held_out(row_B: np.ndarray) -> np.ndarray:
    """Return whether each row is held out for b and w_d, by the splitmix64 hash of its index in the data."""
    hashed = (row_B.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashed = (hashed ^ (hashed >> np.uint64(shift))) * np.uint64(factor)
    held: np.ndarray = (hashed ^ (hashed >> np.uint64(31))) % np.uint64(HELD_OUT) == 0
    return held
