from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ctrbench.speed import measure as module
from ctrbench.speed.bounds import Roofs
from ctrbench.speed.measure import Figures, measure, memory_peak, start_memory, time_steps
from ctrbench.speed.phases import PHASES
from ctrbench.speed.training import EndlessTraining, SpeedCase

MakeCase = Callable[..., SpeedCase]
ROOFS = Roofs(gflops=100.0, gigabytes_per_second=10.0)
CPU = torch.device("cpu")
can_reset_peak = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset"
)


def assert_complete(figures: Figures) -> None:
    assert tuple(figures.phases_ms) == PHASES
    assert all(ms >= 0 for ms in figures.phases_ms.values())
    assert figures.ms_per_step * figures.rows_per_second == pytest.approx(1e3 * figures.rows_per_step)
    assert figures.closeness == pytest.approx(100 * figures.bounds.ms / figures.ms_per_step)
    assert figures.parameters["embedding"] > 0
    assert figures.work.flops > 0


def test_figures_agree_with_one_another(make_case: MakeCase) -> None:
    figures = measure(make_case(), ROOFS, seconds=0.01)
    assert_complete(figures)
    assert 8 <= figures.rows_per_step <= 64
    assert len(figures.slice_rows_per_second) == module.SLICES


def test_batches_of_single_domains_are_counted_with_their_own_sizes(make_case: MakeCase) -> None:
    # No domain has more than 200 rows, and no batch of one domain is a full one.
    assert measure(make_case("star", batch_size=190), ROOFS, seconds=0.01).rows_per_step < 190


def test_slices_hold_whole_steps(make_case: MakeCase) -> None:
    slices = time_steps(EndlessTraining(make_case()), seconds=0.0)
    # The first step is the warm-up.
    assert [part.rows for part in slices] == [64, 64, 8, 64, 64, 64, 8]
    assert all(part.steps == 1 for part in slices)


@can_reset_peak
def test_the_peak_includes_freed_memory() -> None:
    before = start_memory(CPU)
    del (block := [torch.ones(5_000_000)])[:]
    assert before is not None
    assert block == []
    assert memory_peak(CPU) - before > 19_000_000
    again = start_memory(CPU)
    assert again is not None
    assert memory_peak(CPU) - again < 10_000_000


def test_memory_that_cannot_be_measured_is_not_zero(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    assert measure(make_case(), ROOFS, seconds=0.01).peak_memory_bytes is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["plain", "star"])
def test_a_cuda_device_is_measured_too(make_case: MakeCase, method: str) -> None:
    case = make_case(method)
    data = case.workload.data.to(torch.device("cuda"))
    figures = measure(replace(case, workload=replace(case.workload, data=data)), ROOFS, seconds=0.05)
    assert_complete(figures)
    assert figures.peak_memory_bytes
