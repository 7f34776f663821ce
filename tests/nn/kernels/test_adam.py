from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.nn.kernels import loops
from ctrbench.nn.kernels.adam import LoopRowAdam, RowAdam, TensorRowAdam, row_adam
from ctrbench.nn.kernels.missed_steps import AdamConfig, EmbeddingRule, MissedSteps
from ctrbench.nn.tables import RowTable

ROWS, WIDTH, STEPS = 12, 3, 60
START = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(9))


def visited_rows() -> list[torch.Tensor]:
    """Distinct rows of each step; low ones come often, high ones hardly ever."""
    generator = np.random.default_rng(0)
    chance = 1.0 / np.arange(1, ROWS + 1) ** 1.5
    return [torch.from_numpy(np.flatnonzero(generator.random(ROWS) < chance)) for _ in range(STEPS)]


def trained(form: type[RowAdam], rule: str, embedding_rule: EmbeddingRule = "adam") -> RowAdam:
    """Train a table; gradients pull each row to a target that changes with every step."""
    config = AdamConfig(lr=0.01, embedding_rule=embedding_rule)
    table = RowTable(START.clone(), rule)  # type: ignore[arg-type]
    rows_adam = form(table, config, MissedSteps(config))
    generator = torch.Generator().manual_seed(2)
    for step, rows_U in enumerate(visited_rows(), start=1):
        target = torch.randn(1, generator=generator)
        weight_UW = rows_adam.read(rows_U, step)
        rows_adam.update(rows_U, weight_UW, 2.0 * (weight_UW - target), step)
    return rows_adam


@pytest.mark.parametrize(
    ("rule", "embedding_rule"), [("embedding", "adam"), ("embedding", "lazy_adam"), ("domain", "adam")]
)
def test_loops_and_tensors_compute_the_same(rule: str, embedding_rule: EmbeddingRule) -> None:
    first, second = (trained(form, rule, embedding_rule) for form in (LoopRowAdam, TensorRowAdam))
    for rows_adam in (first, second):
        rows_adam.flush(STEPS)
    by_loops, by_tensors = first.state_dict(), second.state_dict()
    torch.testing.assert_close(by_loops["packed"], by_tensors["packed"], rtol=1e-5, atol=1e-7)
    assert torch.equal(by_loops["last"], by_tensors["last"])


def test_a_table_on_the_cpu_is_updated_by_loops() -> None:
    config = AdamConfig()
    assert type(row_adam(RowTable(START.clone(), "domain"), config, MissedSteps(config))) is LoopRowAdam


def test_flushing_in_parts_equals_flushing_at_once() -> None:
    first, second = trained(TensorRowAdam, "embedding"), trained(TensorRowAdam, "embedding")
    assert isinstance(second, TensorRowAdam)
    first.flush(STEPS)
    second.flush(STEPS, rows=5)
    assert torch.equal(first.packed, second.packed)


def test_several_threads_compute_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    single = trained(LoopRowAdam, "embedding")
    monkeypatch.setattr(loops, "PARALLEL_NUMBERS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    parallel = trained(LoopRowAdam, "embedding")
    single.flush(STEPS)
    parallel.flush(STEPS)
    assert torch.equal(single.packed, parallel.packed)


def brute_sums(config: AdamConfig, last: int, missed: int) -> tuple[float, float]:
    steps = np.arange(1, missed + 1, dtype=np.float64)
    c1, c2 = 1.0 - config.beta1 ** (last + steps), 1.0 - config.beta2 ** (last + steps)
    rho1, rho2 = config.beta1 / config.beta2**0.5, config.beta1 / config.beta2
    return float((rho1**steps * c2**0.5 / c1).sum()), float((rho2**steps * c2 / c1).sum())


@pytest.mark.parametrize("last", [1, 2, 57, 4_000, 32_767, 32_768, 50_000])
@pytest.mark.parametrize("missed", [1, 3, 40, 5_000, 70_000])
def test_tabulated_sums_equal_sums_over_the_missed_steps(last: int, missed: int) -> None:
    config = AdamConfig()
    g1, g2 = MissedSteps(config).sums(torch.tensor([last]), torch.tensor([missed]))
    assert (float(g1), float(g2)) == pytest.approx(brute_sums(config, last, missed), rel=1e-9)


def test_sums_over_no_missed_steps_are_zero() -> None:
    g1, g2 = MissedSteps(AdamConfig()).sums(torch.tensor([0, 5, 99_999]), torch.tensor([0, 0, 0]))
    assert torch.equal(g1, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(g2, torch.zeros(3, dtype=torch.float64))
