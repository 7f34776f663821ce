from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.errors import SettingError
from ctrbench.extend import (
    Build,
    Chain,
    Context,
    CTRModel,
    Dense,
    GateCall,
    GateSettings,
    Learner,
    Optimizer,
    Plan,
    Schema,
    SplitData,
    Stage,
    StageModule,
    train_gate,
)
from ctrbench.methods.adasparse import (
    AdaSparse,
    Gate,
    GateModule,
    band_penalty,
)
from ctrbench.nn.optim import AdamConfig
from ctrbench.nn.schema import FieldShape

SIZES = {"item": 11, "place": 6, "shop": 11, "age": 5}
DOMAIN_COLUMNS = [2, 3, 6, 7]
LN3 = math.log(3.0)


def make_schema(domain_features: tuple[str, ...] = ("place", "age"), embedding_size: int = 2) -> Schema:
    fields = [
        FieldShape(name=name, kind="categorical", role="other", size=size) for name, size in SIZES.items()
    ]
    return Schema(
        fields=tuple(fields),
        embedding_size=embedding_size,
        domain_features=domain_features,
        num_domains=5,
        indicator_rows=(0,) + (1,) * 5,
        base_rate=0.5,
    )


def make_data(num_rows: int) -> SplitData:
    """Clicks depend on place x item, so that pruning by domain has an effect."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack(
        [torch.randint(1, size, (num_rows,), generator=generator) for size in SIZES.values()], 1
    )
    taste = torch.randn(11, generator=generator)[ids[:, 0]]
    logit = torch.where(ids[:, 1] % 2 == 0, taste, -taste) + 0.5 * (ids[:, 3] - 2)
    place = ids[:, 1].int()
    return SplitData(
        ids_BF=ids.int(),
        bags=(),
        numeric_BK=torch.zeros(num_rows, 0),
        domain_B=place,
        indicator_B=place,
        label_B=torch.bernoulli(torch.sigmoid(logit), generator=generator),
        row=np.arange(num_rows),
        user=None,
        probability=None,
    )


def make_model(method: AdaSparse, plan: Plan | None = None, embedding_size: int = 2) -> CTRModel:
    schema = make_schema(embedding_size=embedding_size)
    return CTRModel(method.rewrite(plan or Dnn(hidden=(8, 4)).plan()), schema, seed=1)


def gates(model: CTRModel) -> list[GateModule]:
    return [module for module in model.modules() if isinstance(module, GateModule)]


def make_gate(method: AdaSparse, num_inputs: int = 8) -> tuple[GateModule, Context, torch.Tensor]:
    """A gate, a context and an input of 3 rows, all at random."""
    torch.manual_seed(0)
    module = Gate(name="gate", stage="head", settings=method, num_sites=1).build(
        num_inputs, Build(schema=make_schema(), seed=1)
    )
    context = Context(
        schema=make_schema(),
        z_BN=torch.randn(3, 8, requires_grad=True),
        domain_B=torch.ones(3, dtype=torch.int32),
        indicator_B=torch.ones(3, dtype=torch.int32),
    )
    return module, context, torch.randn(3, num_inputs, requires_grad=True)


def gate_factors(
    method: AdaSparse, v_in: torch.Tensor, lambda_hat: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """π in training at α = 1, λ^l |r^l - r| and the pruned share, from v_in itself."""
    num_neurons = v_in.shape[1]
    call = GateCall(
        settings=method.gate_settings(),
        slope=None if method.form == "scaling" else torch.tensor(1.0),
        penalty=lambda ratio: band_penalty(ratio, lambda_hat, method),
        num_sites=1,
        takes_hidden=False,
    )
    ones = torch.ones_like(v_in, requires_grad=False)
    return train_gate(ones, ones, v_in, torch.eye(num_neurons), torch.zeros(num_neurons), call)


# The three factor functions are those of `kernels.gate`.


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (AdaSparse(), GateSettings(ceiling=2.0, threshold=0.25)),
        (AdaSparse(beta=4.0, epsilon=1.5), GateSettings(ceiling=4.0, threshold=1.5)),
        (AdaSparse(form="scaling", beta=3.0), GateSettings(ceiling=3.0)),
        (AdaSparse(form="binarization"), GateSettings(ceiling=1.0, threshold=0.25, is_binary=True)),
        (
            AdaSparse(gradient="masked", ratio_mode="l1", detach_pruner_input=True),
            GateSettings(ceiling=2.0, threshold=0.25, gradient="masked", ratio_mode="l1", is_detached=True),
        ),
    ],
)
def test_factors_follow_from_the_settings(method: AdaSparse, settings: GateSettings) -> None:
    assert method.gate_settings() == settings


@pytest.mark.parametrize(
    ("form", "is_sloped"), [("fusion", True), ("binarization", True), ("scaling", False)]
)
def test_alpha_is_the_slope_of_the_sigmoid_but_for_scaling(form: str, is_sloped: bool) -> None:
    module = make_gate(AdaSparse(form=form))[0]
    assert (module.slope is module.alpha) is is_sloped
    assert (module.slope is None) is not is_sloped


@pytest.mark.parametrize(("pruner_input", "num_inputs"), [("domain", 4), ("domain_and_hidden", 10)])
def test_pruners_see_the_domain_and_the_hidden_layer(pruner_input: str, num_inputs: int) -> None:
    module = make_gate(AdaSparse(pruner_input=pruner_input), num_inputs=6)[0]
    assert module.weight.shape == (num_inputs, 6)


@pytest.mark.parametrize(("init", "scale"), [(1.0, 1.0), (0.1, 0.1), ("zero", 0.0)])
def test_pruners_start_at_a_share_of_the_range(init: float | str, scale: float) -> None:
    module, full = (make_gate(AdaSparse(pruner_init=value))[0] for value in (init, 1.0))
    torch.testing.assert_close(module.weight, scale * full.weight)


# The band: 2 x 4 factors, target 0.2.


def penalty_of(
    v_out: list[list[float]], method: AdaSparse, lambda_hat: float = 0.5
) -> tuple[float, float, torch.Tensor]:
    """Return the pruned share, λ^l |r^l - r| and the latter's gradient by v_out."""
    share = torch.tensor(v_out) / method.ceiling
    v_in = torch.logit(share).requires_grad_()
    _, penalty, pruned = gate_factors(method, v_in, lambda_hat)
    (slope,) = torch.autograd.grad(penalty, v_in, allow_unused=True)
    slope = torch.zeros_like(share) if slope is None else slope / (method.ceiling * share * (1.0 - share))
    return float(pruned), float(penalty.detach()), slope


def test_too_many_pruned_raises_every_v_out() -> None:
    # r = 3/8, gap 0.175, λ = 0.0875; slope λ · (-1/8)
    ratio, penalty, slope = penalty_of([[1.5, 0.1, 0.2, 1.0], [0.24, 0.3, 1.9, 1.0]], AdaSparse())
    assert (ratio, penalty) == (0.375, pytest.approx(0.0153125))
    assert slope.flatten().tolist() == pytest.approx([-0.0109375] * 8)


def test_too_few_pruned_lowers_every_v_out() -> None:
    ratio, penalty, slope = penalty_of([[1.5, 0.3, 0.3, 1.0], [1.0, 0.3, 1.9, 1.0]], AdaSparse())
    assert (ratio, penalty) == (0.0, pytest.approx(0.02))
    assert slope.flatten().tolist() == pytest.approx([0.0125] * 8)


def test_no_penalty_at_the_edge_of_the_band() -> None:
    ratio, penalty, slope = penalty_of([[1.5, 0.1, 0.2, 1.0], [1.0, 0.3, 1.9, 1.0]], AdaSparse())
    assert (ratio, penalty) == (0.25, 0.0)
    assert not slope.any()


def test_the_band_treats_pruned_neurons_alike_in_masked_mode() -> None:
    slope = penalty_of([[1.5, 0.1, 0.2, 1.0], [0.2, 0.3, 1.9, 1.0]], AdaSparse(gradient="masked"))[2]
    assert slope.flatten().tolist() == pytest.approx([-0.0109375] * 8)


def test_nothing_reaches_the_pruner_in_zero_mode() -> None:
    penalty, slope = penalty_of([[0.1, 0.1, 1.0, 1.0]], AdaSparse(gradient="zero"))[1:]
    assert penalty == pytest.approx(0.045)
    assert not slope.any()


def test_l1_ratio_is_one_minus_the_mean_factor() -> None:
    # π = 1.5, 0, 0.5, 0.4: mean 0.6, r = 0.4, gap 0.2
    method = AdaSparse(ratio_mode="l1", gradient="masked")
    ratio, penalty, slope = penalty_of([[1.5, 0.2, 0.5, 0.4]], method)
    assert (ratio, penalty) == (0.25, pytest.approx(0.02))
    assert slope.flatten().tolist() == pytest.approx([-0.025, 0.0, -0.025, -0.025])


def run_training_pass(model: CTRModel) -> Context:
    model.train()
    context = model.context(make_data(8).slice(0, 8))
    model.net(context)
    return context


def test_penalty_is_the_mean_over_sites_and_sparsity_is_logged() -> None:
    model = make_model(AdaSparse(pruner_init="zero", lambda_start=0.5))
    widths = [8, 8, 4]
    for gate, width, closed in zip(gates(model), widths, (0, 4, 1), strict=True):
        assert gate.bias.shape == (width,)
        with torch.no_grad():
            gate.bias[:closed] = -1000.0
    context = run_training_pass(model)
    # gaps 0.2, 0.3 and none
    assert [float(one.detach()) for one in context.penalties] == pytest.approx([0.02 / 3, 0.045 / 3, 0.0])
    logged = {name: float(value) for name, value in context.logs.items()}
    assert logged == {"tower0.gate.pruned": 0.0, "tower1.gate.pruned": 0.5, "head.gate.pruned": 0.25}


@pytest.mark.parametrize("method", [AdaSparse(regularise=False), AdaSparse(form="scaling")])
def test_penalty_can_be_left_out(method: AdaSparse) -> None:
    assert run_training_pass(make_model(method)).penalties == []


def test_no_penalty_in_evaluation() -> None:
    model = make_model(AdaSparse()).eval()
    context = model.context(make_data(8).slice(0, 8))
    model.net(context)
    assert context.penalties == []


# Schedules.


@pytest.mark.parametrize(("progress", "alpha"), [(0.0, 0.1), (0.25, 2.55), (0.5, 5.0), (1.0, 5.0)])
def test_alpha_grows_over_the_first_half(progress: float, alpha: float) -> None:
    assert AdaSparse().alpha(progress) == pytest.approx(alpha)


def test_alpha_settings() -> None:
    method = AdaSparse(alpha_start=1.0, alpha_limit=3.0, alpha_rho=0.8)
    assert [method.alpha(p) for p in (0.0, 0.4, 0.8)] == pytest.approx([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("shape", "values"), [("linear", [0.01, 0.505, 1.0]), ("exponential", [0.01, 0.1, 1.0])]
)
def test_lambda_hat_grows_to_the_end(shape: str, values: list[float]) -> None:
    method = AdaSparse(lambda_shape=shape)
    assert [method.lambda_hat(p) for p in (0.0, 0.5, 1.0)] == pytest.approx(values)


def test_only_advance_changes_alpha_and_lambda() -> None:
    model = make_model(AdaSparse())
    for _ in range(3):
        run_training_pass(model)
    assert [round(float(gate.alpha), 6) for gate in gates(model)] == [0.1] * 3
    model.advance(0.25)
    assert [round(float(gate.alpha), 6) for gate in gates(model)] == [2.55] * 3
    assert [round(float(gate.lambda_hat), 6) for gate in gates(model)] == [0.2575] * 3


# Sites.


@pytest.mark.parametrize(
    ("method", "plan", "widths"),
    [
        (AdaSparse(), Dnn(hidden=(8, 4)).plan(), [8, 8, 4]),
        (AdaSparse(prune_input=None), Dnn(hidden=(8, 4)).plan(), [8, 4]),
        (AdaSparse(), Dcnv2(hidden=(6, 4)).plan(), [8, 6, 12]),
        (AdaSparse(), Dcnv2(hidden=(6, 4), structure="stacked").plan(), [8, 6, 4]),
        (AdaSparse(prune_cross=True), Dcnv2(hidden=(6, 4)).plan(), [8, 8, 8, 8, 6, 12]),
        (AdaSparse(prune_cross=True, prune_input=None), Dcnv2(hidden=(6, 4)).plan(), [8, 8, 6, 12]),
    ],
)
def test_sites_are_the_inputs_of_weight_matrices(method: AdaSparse, plan: Plan, widths: list[int]) -> None:
    found = gates(make_model(method, plan))
    assert [gate.num_outputs for gate in found] == widths
    assert {gate.num_sites for gate in found} == {len(widths)}


def test_only_the_site_of_the_embeddings_is_skipped() -> None:
    tower = AdaSparse(prune_input=None).rewrite(Dnn(hidden=(8, 4)).plan()).tower
    assert [type(stage) for stage in tower] == [Dense, Gate, Dense]


def test_agnostic_only_leaves_the_domain_embeddings() -> None:
    first, *others = gates(make_model(AdaSparse(prune_input="agnostic_only")))
    assert [len(gate.bias) for gate in (first, *others)] == [4, 8, 4]
    torch.nn.init.constant_(first.bias, -1000.0)
    context = make_gate(AdaSparse())[1]
    gated = first.eval()(context.z_BN, context)
    assert torch.equal(gated[:, DOMAIN_COLUMNS], context.z_BN[:, DOMAIN_COLUMNS])
    assert not gated[:, [0, 1, 4, 5]].any()


def test_agnostic_only_applies_to_the_first_cross_layer_too() -> None:
    method = AdaSparse(prune_input="agnostic_only", prune_cross=True)
    found = gates(make_model(method, Dcnv2(hidden=(6, 4)).plan()))
    assert [len(gate.bias) for gate in found] == [4, 8, 8, 4, 6, 12]


def test_agnostic_only_needs_an_agnostic_field() -> None:
    plan = AdaSparse(prune_input="agnostic_only").rewrite(Dnn().plan())
    with pytest.raises(SettingError, match="no domain feature"):
        CTRModel(plan, make_schema(tuple(SIZES)), seed=1)


def test_agnostic_only_needs_the_embeddings_width() -> None:
    gate = Gate(name="gate", stage="head", settings=AdaSparse(), num_sites=1, is_partial=True)
    with pytest.raises(SettingError, match="5 inputs, not 8"):
        gate.build(5, Build(schema=make_schema(), seed=1))


@pytest.mark.parametrize(
    ("method", "plan", "reason"),
    [
        (AdaSparse(prune_cross=True), Dnn().plan(), "this plan has none"),
        (AdaSparse(prune_input="agnostic_only"), Dcnv2(structure="stacked").plan(), "as the tower's input"),
        (AdaSparse(), Plan(tower=(), head=()), "no gated weight matrix"),
    ],
)
def test_plans_without_the_sites_of_the_settings_are_refused(
    method: AdaSparse, plan: Plan, reason: str
) -> None:
    assert reason in (method.supports(plan) or "")


def test_backbones_are_supported() -> None:
    plans = [Dnn().plan(), Dcnv2().plan(), Dcnv2(structure="stacked").plan()]
    assert [AdaSparse().supports(plan) for plan in plans] == [None] * 3


# Cross matrices, and the inspection of gates.


def sigmoid(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1.0 / (1.0 + np.exp(-x))
    return result


@dataclass(frozen=True, kw_only=True)
class Squares(Stage):
    """An interaction of a backbone's own, (W x)², that declares its matrix."""

    gates: tuple[Stage, ...] = ()

    @property
    def num_matrices(self) -> int:
        return 1

    def before_matrices(self, stages: Sequence[Stage | None]) -> Stage:
        return replace(self, gates=tuple(stage for stage in stages if stage))

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return SquaresModule(self, num_inputs, build)


class SquaresModule(StageModule):
    num_outputs = 4

    def __init__(self, stage: Squares, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.chain = Chain((*stage.gates, Dense(name=stage.name, width=4)), num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        return self.chain(x_BN, context).square()


@pytest.mark.parametrize(("prune_input", "num_gates"), [("all", 4), (None, 2)])
def test_matrices_that_an_interaction_declares_are_gated(
    prune_input: Literal["all"] | None, num_gates: int
) -> None:
    plan = replace(Dnn(hidden=(8, 4)).plan(), interactions=(Squares(name="squares"),))
    method = AdaSparse(prune_cross=True, prune_input=prune_input)
    assert method.supports(plan) is None
    sites = gates(make_model(method, plan))
    assert [gate.num_sites for gate in sites] == [num_gates] * num_gates


def test_cross_matrices_are_gated_but_not_their_residual() -> None:
    plan = AdaSparse(prune_cross=True, pruner_init=1.0).rewrite(Dcnv2(hidden=(4,), layers=2).plan())
    cross = plan.interactions[0].build(8, Build(schema=make_schema(), seed=1)).eval()
    context = make_gate(AdaSparse())[1]
    x0 = x = context.z_BN.detach().numpy()
    state = {name: value.numpy() for name, value in cross.state_dict().items()}
    for layer in range(2):
        v_in = np.concatenate([x0[:, DOMAIN_COLUMNS], x], 1) @ state[f"gates.{layer}.0.weight"]
        x = x0 * ((2 * sigmoid(0.1 * v_in) * x) @ state[f"kernels.{layer}.0"]) + x
    np.testing.assert_allclose(cross(context.z_BN, context).detach().numpy(), x, rtol=1e-4, atol=1e-5)


def test_an_inspection_has_the_kept_share_per_gate_and_domain() -> None:
    model, data = make_model(AdaSparse(pruner_init="zero")), make_data(50)
    first, second, head = gates(model)
    torch.nn.init.constant_(second.bias[:3], -1000.0)
    inspection = AdaSparse().inspect(model, data)
    assert inspection.stages == ("tower0", "tower1", "head")
    assert inspection.domain_D.tolist() == data.domain_B.unique().tolist()
    assert inspection.rows_D.tolist() == torch.bincount(data.domain_B)[inspection.domain_D].tolist()
    for gate in (first, second, head):
        expected = np.ones(gate.num_outputs, dtype=np.float32)
        expected[:3] = 0.0 if gate is second else 1.0
        kept_DN = inspection.site(gate.stage).kept_DN
        np.testing.assert_array_equal(kept_DN, np.broadcast_to(expected, kept_DN.shape))


# Starts and training.

PLANS: list[Callable[[], Plan]] = [
    Dnn(hidden=(8, 4)).plan,
    Dcnv2(hidden=(8, 4)).plan,
    Dcnv2(hidden=(8, 4), structure="stacked").plan,
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("form", ["fusion", "scaling", "binarization"])
@pytest.mark.parametrize("init", [0.1, "zero"])
def test_starts_as_the_backbone(plan: Callable[[], Plan], form: str, init: float | str) -> None:
    method = AdaSparse(form=form, pruner_init=init)
    batch = make_data(64).slice(0, 64)
    plain = CTRModel(plan(), make_schema(), seed=1).eval()(batch)
    difference = (make_model(method, plan()).eval()(batch) - plain).abs().max()
    nearly = 2e-2 if form == "scaling" else 1e-2
    assert method.starts_as_backbone == (0.0 if init == "zero" else nearly)
    assert difference <= method.starts_as_backbone


@pytest.mark.parametrize(
    "method",
    [
        AdaSparse(beta=3.0),
        AdaSparse(epsilon=1.0),
        AdaSparse(epsilon=0.9),
        AdaSparse(form="binarization", epsilon=0.5),
        AdaSparse(pruner_init=1.0),
        AdaSparse(alpha_start=5.0),
    ],
)
def test_no_claim_where_the_first_factors_are_not_one(method: AdaSparse) -> None:
    assert method.starts_as_backbone is None


@pytest.mark.parametrize(("gradient", "is_trained"), [("ste", True), ("masked", True), ("zero", False)])
@pytest.mark.parametrize("form", ["fusion", "binarization"])
def test_click_loss_reaches_the_pruners_at_the_first_step(form: str, gradient: str, is_trained: bool) -> None:
    # With gradient=zero nothing at all reaches the pruners, R_s included, and switching it off is refused.
    without = {} if gradient == "zero" else {"regularise": False}
    model = make_model(AdaSparse(form=form, gradient=gradient, **without))
    Learner().step(model, Optimizer(model, AdamConfig()), make_data(64).slice(0, 64))
    for gate in gates(model):
        assert (gate.weight.grad is not None and bool(gate.weight.grad.any())) == is_trained


@pytest.mark.parametrize("form", ["fusion", "binarization"])
def test_every_site_ends_within_the_band(form: str) -> None:
    data, steps, done = make_data(5000), 700, 0
    model = make_model(AdaSparse(form=form), Dnn(hidden=(32, 16)).plan(), embedding_size=8)
    learner, optimizer, generator = Learner(), Optimizer(model, AdamConfig()), np.random.default_rng(0)
    while done < steps:
        for batch in data.batches(learner.order(data, batch_size=125, generator=generator)):
            learner.step(model, optimizer, batch)
            done += 1
            model.advance(done / steps)
    optimizer.flush()
    context = model.context(data.slice(0, 5000))
    model.net(context)
    assert len(context.logs) == 3
    for pruned in context.logs.values():
        assert 0.15 - 0.02 <= float(pruned) <= 0.25 + 0.02


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "scaling", "epsilon": 0.1}, "epsilon has no effect"),
        ({"form": "scaling", "gradient": "masked"}, "gradient has no effect"),
        ({"form": "scaling", "r_max": 0.5}, "r_max has no effect"),
        ({"gradient": "zero", "lambda_max": 100.0}, "lambda_max has no effect"),
        ({"gradient": "zero", "regularise": False}, "regularise has no effect"),
        ({"form": "binarization", "ratio_mode": "l1"}, "ratio_mode has no effect"),
        ({"alpha_start": 5.0, "alpha_rho": 0.8}, "alpha_rho has no effect"),
        ({"lambda_start": 1.0, "lambda_shape": "exponential"}, "lambda_shape has no effect"),
        ({"form": "binarization", "beta": 3.0}, "beta has no effect"),
        ({"regularise": False, "lambda_max": 10.0}, "lambda_max has no effect"),
        ({"r_min": 0.3}, "r_min must not exceed r_max"),
        ({"alpha_start": 6.0}, "alpha_start must not exceed"),
        ({"lambda_start": 2.0}, "lambda_start must not exceed"),
        ({"epsilon": 2.0}, "all neurons are pruned"),
        ({"pruner_init": "large"}, "pruner_init"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdaSparse.model_validate(settings)
