"""Partitioned normalization, against numbers computed by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.nn import norms
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.kernels.moments import update_by_tensors
from ctrbench.nn.norms import PartitionedNorm, PartitionedNormModule
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.stages import Stage, StageModule

EPS = 1e-5
DOMAINS = 4


def schema() -> Schema:
    fields = (FieldShape(name="x", kind="numeric", role="other", size=0),)
    return Schema(
        fields=fields,
        embedding_size=1,
        domain_features=(),
        num_domains=DOMAINS,
        indicator_rows=(0, *[100] * DOMAINS),
        base_rate=0.5,
    )


def build(stage: Stage, num_inputs: int) -> StageModule:
    return stage.build(num_inputs, Build(schema=schema(), seed=1))


def norm(num_inputs: int = 1, *, smallest: int = 2, **settings: float) -> PartitionedNormModule:
    stage = PartitionedNorm(name="pn", smallest=smallest, **settings)
    module = build(stage, num_inputs)
    assert isinstance(module, PartitionedNormModule)
    return module


def context(x_BN: torch.Tensor, indicator: list[int] | np.ndarray) -> Context:
    indicator_B = torch.as_tensor(np.asarray(indicator), dtype=torch.int32)
    return Context(schema=schema(), z_BN=x_BN, domain_B=indicator_B, indicator_B=indicator_B)


def run(module: StageModule, x: list[float] | np.ndarray, indicator: list[int] | np.ndarray) -> np.ndarray:
    x_BN = torch.tensor(np.asarray(x), dtype=next(module.parameters()).dtype)
    x_BN = x_BN[:, None] if x_BN.ndim == 1 else x_BN
    result: np.ndarray = module(x_BN, context(x_BN, indicator)).detach().numpy()
    return result


def test_norm_in_training_uses_the_batch_and_both_affine_parts() -> None:
    module = norm()
    with torch.no_grad():
        module.scale.fill_(2.0)
        module.shift.fill_(0.5)
        module.domain_affine.weight[3] = torch.tensor([[1.5], [0.25]])
    # Mean 2, biased variance 1; γ γ_p = 3, β + β_p = 0.75.
    np.testing.assert_allclose(run(module, [1.0, 3.0], [3, 3])[:, 0], [-2.25, 3.75], rtol=1e-4)


@pytest.mark.parametrize(("momentum", "mean", "variance"), [(0.01, 4.0, 5.0), (0.75, 5.0, 6.5)])
def test_running_moments_average_batches_until_momentum_is_larger(
    momentum: float, mean: float, variance: float
) -> None:
    module = norm(momentum=momentum)
    run(module, [1.0, 3.0], [2, 2])  # mean 2, unbiased variance 2
    run(module, [4.0, 8.0], [2, 2])  # mean 6, unbiased variance 8; weight max(η, 1/2)
    assert module.mean[2].item() == pytest.approx(mean)
    assert module.variance[2].item() == pytest.approx(variance)
    assert module.seen[2].tolist() == [4, 2]


def test_running_moments_of_absent_domains_do_not_change() -> None:
    module = norm()
    run(module, [1.0, 3.0], [2, 2])
    assert module.mean[[0, 1, 3, 4], 0].tolist() == [0.0] * 4
    assert module.variance[[0, 1, 3, 4], 0].tolist() == [1.0] * 4
    assert module.seen[[0, 1, 3, 4]].sum() == 0


def two_domains(**settings: float) -> PartitionedNormModule:
    module = norm(**settings)
    run(module, [1.0, 3.0], [1, 1])
    run(module, [7.0, 9.0], [2, 2])
    return module.eval()


def test_global_moments_are_those_of_all_rows() -> None:
    module = two_domains()
    assert module.global_mean.item() == pytest.approx(5.0)
    assert module.global_variance.item() == pytest.approx(10.0)


def test_eval_shrinks_a_domains_moments_towards_the_global_ones() -> None:
    # Two rows against κ = 2: mean (2 + 5)/2. One degree of freedom: variance 10 + (2 - 10)/3, plus 0.25 · (5 - 2)².
    output = run(two_domains(shrinkage=2.0), [3.5, 5.0], [1, 1])
    np.testing.assert_allclose(output[:, 0], [0.0, 1.5 / (9.583333 + EPS) ** 0.5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unseen", [0, 4])
def test_an_unseen_domain_uses_the_global_moments(unseen: int) -> None:
    assert run(two_domains(), [8.0], [unseen]).item() == pytest.approx(3.0 / (10.0 + EPS) ** 0.5)


def test_eval_changes_no_state() -> None:
    module = two_domains()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run(module, [100.0, 3.0], [1, 2])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_in_eval_mode_rows_are_independent() -> None:
    module = two_domains()
    joint = run(module, [1.0, 5.0, -2.0, 4.0], [1, 2, 0, 1])
    alone = [run(module, [x], [p]).item() for x, p in [(1.0, 1), (5.0, 2), (-2.0, 0), (4.0, 1)]]
    np.testing.assert_allclose(joint[:, 0], alone, rtol=1e-6)


def test_norm_is_the_identity_before_training() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    np.testing.assert_allclose(run(norm(3).eval(), x, [0, 1, 1, 2, 3, 4]), x, rtol=1e-5)


def test_all_state_is_in_the_state_dict() -> None:
    first, second = two_domains(), norm().eval()
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(run(first, [4.0, 4.0], [1, 2]), run(second, [4.0, 4.0], [1, 2]))


class Loop:
    """The same moments with a loop over domains, in float64."""

    def __init__(self, momentum: float, shrinkage: float, smallest: int) -> None:
        self.momentum, self.shrinkage, self.smallest = momentum, shrinkage, smallest
        self.mean = dict.fromkeys(range(DOMAINS + 1), 0.0)
        self.variance = dict.fromkeys(range(DOMAINS + 1), 1.0)
        self.rows = dict.fromkeys(self.mean, 0)
        self.freedom = dict.fromkeys(self.mean, 0)
        self.all_mean, self.all_variance, self.all_rows = 0.0, 1.0, 0

    def __call__(self, x: np.ndarray, indicator: np.ndarray) -> np.ndarray:
        self.see_all(x)
        for p in np.unique(indicator):
            self.see(int(p), x[indicator == p], len(x))
        output = np.empty_like(x)
        for p in np.unique(indicator):
            own = x[indicator == p]
            mean, variance = own.mean(), own.var()
            if len(own) < self.smallest:
                mean, variance = self.running(int(p))
            output[indicator == p] = (own - mean) / np.sqrt(variance + EPS)
        return output

    def see_all(self, x: np.ndarray) -> None:
        weight = max(self.momentum, len(x) / (self.all_rows + len(x)))
        old_square = self.all_variance + self.all_mean**2
        self.all_mean += weight * (x.mean() - self.all_mean)
        self.all_variance = old_square + weight * ((x**2).mean() - old_square) - self.all_mean**2
        self.all_rows += len(x)

    def see(self, p: int, own: np.ndarray, batch: int) -> None:
        n = len(own)
        floor = self.momentum * (n / batch if n < self.smallest else 1.0)
        self.rows[p] += n
        self.freedom[p] += n - 1
        self.mean[p] += max(floor, n / self.rows[p]) * (own.mean() - self.mean[p])
        if n > 1:
            weight = max(floor, (n - 1) / self.freedom[p])
            self.variance[p] += weight * (own.var(ddof=1) - self.variance[p])

    def running(self, p: int) -> tuple[float, float]:
        a = self.rows[p] / (self.rows[p] + self.shrinkage)
        b = self.freedom[p] / (self.freedom[p] + self.shrinkage)
        between = a * (1 - a) * (self.mean[p] - self.all_mean) ** 2
        variance = b * self.variance[p] + (1 - b) * self.all_variance + between
        return a * self.mean[p] + (1 - a) * self.all_mean, variance


@pytest.mark.parametrize("by", ["loops", "tensors"])
def test_batches_of_several_domains_equal_a_loop_over_domains(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    if by == "tensors":
        monkeypatch.setattr(norms, "update_moments", update_by_tensors)
    module = norm(momentum=0.2, shrinkage=10.0, smallest=6).double()
    loop = Loop(momentum=0.2, shrinkage=10.0, smallest=6)
    for size in (1, 30, 5, 30, 12, 30):
        indicator = random.choice([1, 1, 1, 1, 2, 2, 3, 4], size)
        x = random.normal(size=size) * (1.0 + indicator) + indicator
        np.testing.assert_allclose(run(module, x, indicator)[:, 0], loop(x, indicator), rtol=1e-6, atol=1e-9)
    expected = [loop.running(p) for p in range(DOMAINS + 1)]
    running = torch.stack(module.running(torch.arange(DOMAINS + 1)))[:, :, 0].T
    np.testing.assert_allclose(running, expected, rtol=1e-9)


def jacobian(module: StageModule, x: np.ndarray, indicator: np.ndarray) -> np.ndarray:
    def outputs(x_B: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = module(x_B[:, None], context(x_B[:, None], indicator))[:, 0]
        return z

    actual: np.ndarray = torch.autograd.functional.jacobian(outputs, torch.tensor(x)).numpy()
    return actual


def test_gradient_passes_through_a_batchs_moments_but_not_through_running_ones() -> None:
    x = np.random.default_rng(0).normal(size=9)
    indicator = np.array([1, 1, 1, 1, 1, 1, 2, 2, 2])
    module = norm(smallest=6).double()
    actual = jacobian(module, x, indicator)
    y = (x[:6] - x[:6].mean()) / np.sqrt(x[:6].var() + EPS)
    # The derivative of batch normalization: (I - 1/B - y y^T / B) / s.
    expected = (np.eye(6) - 1 / 6 - np.outer(y, y) / 6) / np.sqrt(x[:6].var() + EPS)
    np.testing.assert_allclose(actual[:6, :6], expected, rtol=1e-3, atol=1e-3)
    rare = actual[6:, 6:]
    np.testing.assert_array_equal(rare, np.diag(np.diag(rare)))


def test_a_column_that_is_constant_within_a_domain_is_zero_even_when_it_drifts() -> None:
    module = norm(2, shrinkage=1.0)
    varying = np.array([1.0, -1.0, 1.0, -1.0])
    for drift in range(20):
        run(module, np.stack([np.full(4, 0.1 * drift), varying], axis=1), [1] * 4)
    output = run(module.eval(), [[2.0, 1.0]], [1])[0]
    assert output[0] == 0.0
    assert output[1] > 0.5


def test_a_batch_of_one_row_trains() -> None:
    module = norm()
    output = run(module, [5.0], [3])
    assert output.item() == pytest.approx(0.0, abs=1e-6)  # the mean of all rows so far is its own
    assert module.seen[3].tolist() == [1, 0]
    assert module.variance[3].item() == 1.0
