"""Weight decay, the L2 penalty of embeddings and dropout, against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ctrbench.data.batches import SplitData
from ctrbench.nn.capabilities import decayed_parameters
from ctrbench.nn.exchange import Workers
from ctrbench.nn.kernels import adam
from ctrbench.nn.layer_output import LayerOutput, Regularization, drop_out
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, DenseAdam, Optimizer
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import select
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import Learner
from ctrbench.train.stepper import Stepper

LR, DECAY = 0.1, 0.5


class Tables(nn.Module):
    """An embedding table of three rows, and a domain table whose rows are two matrix entries and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = RowTable(torch.tensor([[0.0, 0.0], [1.0, -2.0], [3.0, 4.0]]), "embedding")
        self.domain = RowTable(torch.tensor([[1.0, 1.0, 1.0], [2.0, 4.0, 8.0]]), "domain", num_decayed=2)
        self.bias = nn.Parameter(torch.zeros(1))


@pytest.fixture(params=[adam.LoopRowAdam, adam.TensorRowAdam])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Optimizer]:
    """Make an optimizer of `Tables`, with the form of Adam on rows for either kind of device."""
    monkeypatch.setattr("ctrbench.nn.optim.row_adam", request.param)

    def make_optimizer(model: nn.Module, **settings: float) -> Optimizer:
        return Optimizer(model, AdamConfig(lr=LR, **settings))  # type: ignore[arg-type]

    return make_optimizer


def test_dense_weights_decay_as_in_the_adamw_of_torch() -> None:
    weights = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))]
    others = [nn.Parameter(weight.detach().clone()) for weight in weights]
    ours = DenseAdam(weights, AdamConfig(lr=LR, weight_decay=DECAY), weights[:1])
    groups = [{"params": others[:1], "weight_decay": DECAY}, {"params": others[1:], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=LR)
    for step in range(20):
        for first, second in (weights, others):
            first.grad = second.grad = None
            torch.autograd.backward((first.sum(0) * second - step % 3).square().sum())
        ours.step()
        theirs.step()
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other)


def test_a_weight_without_a_gradient_does_not_decay() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    DenseAdam([weight], AdamConfig(weight_decay=DECAY), [weight]).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_matrices_of_the_domains_in_the_batch_decay_and_their_biases_do_not(
    make: Callable[..., Optimizer],
) -> None:
    model = Tables()
    optimizer = make(model, weight_decay=DECAY)
    optimizer.begin()
    torch.autograd.backward(optimizer.read(model.domain, torch.tensor([1])).sum())
    optimizer.step()
    # The first step of Adam has length lr in each coordinate; before it, entries shrink by 1 - lr λ = 0.95.
    expected = [[1.0, 1.0, 1.0], [2.0 * 0.95 - LR, 4.0 * 0.95 - LR, 8.0 - LR]]
    torch.testing.assert_close(model.domain.weight.detach(), torch.tensor(expected))


def test_the_l2_penalty_enters_the_gradient_of_each_distinct_row_once(make: Callable[..., Optimizer]) -> None:
    model, penalty = Tables(), 0.25
    optimizer = make(model, embedding_l2=penalty)
    optimizer.begin()
    rows_nE = optimizer.lookup(model.embedding, torch.tensor([2, 1, 2]))
    torch.autograd.backward(0.5 * rows_nE.sum())
    optimizer.step()
    # d/de of the loss: 0.5 for row 1, which occurs once, and 1.0 for row 2; of λ/2 ‖e‖²: λ e for each.
    grads = torch.tensor([[0.0, 0.0], [0.5 + penalty * 1.0, 0.5 - penalty * 2.0], [1.75, 2.0]])
    means = optimizer.tables["embedding"].packed[:3, 1]
    torch.testing.assert_close(means, 0.1 * grads)


def test_the_l2_penalty_spares_tables_of_domains(make: Callable[..., Optimizer]) -> None:
    model = Tables()
    optimizer = make(model, embedding_l2=1.0)
    optimizer.begin()
    torch.autograd.backward(optimizer.read(model.domain, torch.tensor([1])).sum())
    optimizer.step()
    torch.testing.assert_close(optimizer.tables["domain"].packed[1, 1], torch.full((3,), 0.1))


def test_dropout_is_inverted_and_drawn_from_the_generator() -> None:
    x = torch.ones(400, 50)
    first, again = (drop_out(x, 0.2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.unique().tolist() == [0.0, 1.25]
    assert abs(float((first == 0.0).float().mean()) - 0.2) < 0.01


def test_hidden_layers_drop_in_training_only(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model, plain = build_model("plain[dropout=0.5]"), build_model()
    batch = data.slice(0, 50)
    assert torch.equal(model.eval()(batch), plain.eval()(batch))
    hidden = [layer for layer in model.modules() if isinstance(layer, LayerOutput) and layer.activation]
    assert [layer.regularization for layer in hidden] == [Regularization(dropout=0.5)] * 2
    assert not torch.equal(model.train()(batch), plain.train()(batch))


def test_the_head_and_auxiliary_networks_have_no_dropout(build_model: Callable[..., CTRModel]) -> None:
    model = build_model("plain[dropout=0.5,aux=all]")
    with_dropout = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, LayerOutput) and layer.regularization.is_active
    ]
    assert with_dropout == ["net.tower.0.output", "net.tower.1.output"]


def losses(model: CTRModel, data: SplitData, first: int, last: int) -> list[float]:
    """Return the losses of the steps `first` to `last` of an optimizer that has made `first` steps."""
    optimizer = Optimizer(model, AdamConfig(lr=1e-9), seed=model.seed)
    optimizer.steps = first
    batch = data.slice(0, 50)
    return [float(Learner().step(model, optimizer, batch).loss) for _ in range(first, last)]


def test_masks_are_a_function_of_seed_and_step(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    dropped = "plain[dropout=0.5]"
    whole = losses(build_model(dropped), data, 0, 6)
    assert len(set(whole)) == 6
    torch.manual_seed(5)
    assert losses(build_model(dropped), data, 3, 6) == pytest.approx(whole[3:], abs=1e-6)
    other = build_model(dropped)
    other.seed += 1
    assert losses(other, data, 0, 1) != pytest.approx(whole[:1], abs=1e-4)


def test_each_worker_draws_masks_of_its_own(build_model: Callable[..., CTRModel]) -> None:
    model = build_model()
    seeds = [
        Optimizer(model, AdamConfig(), Workers(rank=rank, size=2), seed=1).generator.initial_seed()
        for rank in (0, 1, 0)
    ]
    assert seeds[0] == seeds[2] != seeds[1]


def test_the_learning_rate_of_a_method_replaces_that_of_the_run(build_model: Callable[..., CTRModel]) -> None:
    config = TrainConfig(lr=0.5)
    rates = [
        Stepper(build_model(f"plain{settings}"), Learner(), config).optimizer.config.lr
        for settings in ("", "[lr=0.002]")
    ]
    assert rates == [0.5, 0.002]


TRAINED = [
    "mmoe",
    "star",
    "shared_bottom",
    "adaptdhm",
    "apg",
    "m3oe",
    "ple[levels=2]",
    "hinet",
    "sarnet",
    "saml",
    "hamur",
    "m2m",
    "cross_stitch",
]


@pytest.mark.parametrize("method", TRAINED)
def test_weight_decay_applies_to_matrices_only(method: str, build_model: Callable[..., CTRModel]) -> None:
    model = build_model(method)
    decayed = {id(parameter) for parameter in decayed_parameters(model)}
    vectors = ("bias", "scale", "shift", "mean", "task", "score", "balance", "empty_HE")
    for name, parameter in model.named_parameters():
        is_vector = name.rpartition(".")[2].endswith(vectors)
        is_table = any(
            parameter is module.weight for module in model.modules() if isinstance(module, RowTable)
        )
        # The auxiliary output of a method may have a single input.
        assert (id(parameter) in decayed) == (not is_vector and not is_table and parameter.dim() > 1), name


def test_every_method_selects_its_regularizers() -> None:
    method = select("methods", "plain[lr=0.002,dropout=0.2,weight_decay=0.01,embedding_l2=1e-5]").value
    settings = method.common_settings()
    assert (settings.lr, settings.dropout, settings.weight_decay, settings.embedding_l2) == (
        0.002, 0.2, 0.01, 1e-5,
    )  # fmt: skip
    assert select("methods", "plain").value.key() == {}
