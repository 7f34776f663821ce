"""Facts that hold for every method, each tested once for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ctrbench.contract.check import builtin_backbones, check
from ctrbench.contract.rows import EMBEDDING_SIZE, make_schema, make_training_rows
from ctrbench.data.batches import SplitData
from ctrbench.extend import Backbone, Build, Dense, Estimator, Method, Stage, StageModule, dense_stages
from ctrbench.nn.model import CTRModel
from ctrbench.nn.network import Precision
from ctrbench.plugins.registry import plugins, select
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import score_rows
from ctrbench.train.stepper import Stepper

SMALL = "dnn[hidden=8-4]"
BACKBONES = (SMALL, "dcnv2[hidden=8-4]")
POOLED = ("dnn[hidden=8-4,pooling=din]", "dnn[hidden=8-4,pooling=dien]", "deepfm[pooling=dien]")
"""Backbones that pool sequences by their target."""
CPU = torch.device("cpu")
TRAINED = sorted(
    name for name, plugin in plugins("methods").items() if not issubclass(plugin.load(), Estimator)
)
METHODS = (
    *TRAINED,
    "adasparse[pruner_input=domain]",
    "plain[norm=bn,aux=all]",
    "saml[attention=true]",
    "sarnet[attention=true]",
    "star[batching=mixed]",
)
CLAIMS = {
    **dict.fromkeys(
        ("biasnet", "epnet", "mamdr", "maml", "mulann", "pcgrad", "pepnet", "plain", "ppnet"), 0.0
    ),
    **dict.fromkeys(("adaptdhm", "hamur", "separate", "shared_bottom", "star"), 1e-5),
    "adasparse": 0.01,
}
"""Largest difference of initial logits from the backbone's, of methods that declare one."""
FLOAT32_LAYERS = ("star", "shared_bottom", "adaptdhm")
"""Methods whose layers on a DNN all belong to domains or clusters, and stay in float32 at any precision."""


def with_narrow_tower(backbone: str) -> str:
    """Add two narrow layers to a selector, since wide ones take longer to train."""
    return f"{backbone.removesuffix(']')}{',' if '[' in backbone else '['}hidden=8-4]"


@pytest.mark.parametrize("method", plugins("methods"))
def test_every_method_keeps_the_contract_on_every_backbone(method: str) -> None:
    findings = check(method, backbones=[with_narrow_tower(backbone) for backbone in builtin_backbones()])
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize(
    "method",
    [
        "adasparse[form=scaling]",
        "adasparse[form=binarization]",
        "adasparse[pruner_init=zero]",
        "maml[paml_lr=true]",
        "pepnet[ppnet_prior=domain]",
        "ppnet[ppnet_prior=domain]",
        "star[norm=none,aux=none]",
        "star[batching=mixed]",
        "apg[version=v2]",
        "apg[condition=self]",
        "hamur[tower=shared]",
        "ple[specific=2]",
        "ple[levels=2]",
        "ple[levels=3]",
        "saml[temperature=0.7]",
        "saml[mutual=false]",
        "separate[batching=mixed]",
        "maml[variant=reptile]",
        "maml[variant=second_order]",
        "maml[tasks=2,support=16,query=16]",
    ],
)
def test_other_settings_keep_the_contract(method: str) -> None:
    assert [finding for finding in check(method, backbones=[SMALL]) if not finding.ok] == []


def test_the_contract_checks_the_initial_logits_of_these_methods() -> None:
    claims = {name: select("methods", name).value.starts_as_backbone for name in TRAINED}
    assert {name: claim for name, claim in claims.items() if claim is not None} == CLAIMS


def test_a_gate_without_a_gradient_breaks_the_rule_about_gradients() -> None:
    findings = check("adasparse[gradient=zero]", backbones=[SMALL])
    assert [finding.rule for finding in findings if not finding.ok] == ["gradients"]


@dataclass(frozen=True, kw_only=True)
class Layer(Stage):
    """A backbone's own dense layer, which is no subclass of `Dense`."""

    dense: Dense

    def as_dense(self) -> Dense:
        return self.dense

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return self.dense.build(num_inputs, build)


@pytest.mark.parametrize("method", TRAINED)
def test_a_backbones_own_dense_layers_take_part(method: str) -> None:
    rewriter, rows = select("methods", method).value, make_training_rows().slice(0, 9)
    plan = select("backbones", SMALL).value.full_plan()
    tower, head = (
        tuple(Layer(name=dense.name, dense=dense) for dense in dense_stages(stages))
        for stages in (plan.tower, plan.head)
    )
    logits = [
        CTRModel(rewriter.apply(each), make_schema(), seed=1).eval()(rows)
        for each in (plan, replace(plan, tower=tower, head=head))
    ]
    assert torch.equal(*logits)


def make_stepper(
    method: str, backbone: str, *, device: torch.device = CPU, precision: Precision = "float32"
) -> Stepper:
    rewriter, base = select("methods", method).value, select("backbones", backbone).value
    assert isinstance(rewriter, Method)
    assert isinstance(base, Backbone)
    plan = rewriter.apply(base.full_plan())
    model = CTRModel(plan, make_schema(), seed=1, precision=precision).to(device)
    config = TrainConfig(embedding_size=EMBEDDING_SIZE, batch_size=128)
    return Stepper(model, rewriter.learner(), config)


def train_epoch(stepper: Stepper, rows: SplitData) -> list[torch.Tensor]:
    order = stepper.order(rows, np.random.default_rng(0))
    return [stepper.step(batch).loss for batch in rows.batches(order)]


@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        *((method, backbone) for method in METHODS for backbone in BACKBONES),
        *(("plain", backbone) for backbone in plugins("backbones")),
        *((method, backbone) for method in ("plain", "maml", "separate") for backbone in POOLED),
    ],
)
def test_no_step_waits_for_a_value_of_the_device(
    method: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the device `meta` have no values: reading one, or making a shape of some, raises an error."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    losses = train_epoch(make_stepper(method, backbone, device=meta), make_training_rows().to(meta))
    assert all(loss.is_meta for loss in losses)
    with pytest.raises(RuntimeError, match="meta"):
        losses[0].item()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_follows_full_precision(method: str, backbone: str) -> None:
    rows = make_training_rows()
    losses, scores = {}, {}
    for precision in ("float32", "bf16"):
        stepper = make_stepper(method, backbone, precision=precision)
        losses[precision] = torch.stack(train_epoch(stepper, rows)).tolist()
        scores[precision] = score_rows(stepper.model, rows)
        assert {parameter.dtype for parameter in stepper.model.parameters()} == {torch.float32}
    assert scores["bf16"].dtype == np.float32
    # A logit rounded to eight bits would be equal to many others.
    assert len(np.unique(scores["bf16"])) > 0.9 * len(np.unique(scores["float32"]))
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.02)
    is_equal = method.startswith(FLOAT32_LAYERS) and backbone == SMALL
    assert (losses["bf16"] == losses["float32"]) is is_equal
