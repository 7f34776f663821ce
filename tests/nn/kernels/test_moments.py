from __future__ import annotations

from dataclasses import astuple

import torch

from ctrbench.nn.kernels.moments import BatchMoments, RunningMoments, update_by_loops, update_by_tensors

DOMAINS, WIDTH = 5, 3


def running_moments() -> RunningMoments:
    return RunningMoments(
        mean_RN=torch.zeros(DOMAINS, WIDTH, dtype=torch.float64),
        variance_RN=torch.ones(DOMAINS, WIDTH, dtype=torch.float64),
        seen_R2=torch.zeros(DOMAINS, 2, dtype=torch.int64),
        global_mean_N=torch.zeros(WIDTH, dtype=torch.float64),
        global_variance_N=torch.ones(WIDTH, dtype=torch.float64),
    )


def batch_moments(counts: list[int], present: list[int], seed: int) -> BatchMoments:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(counts), WIDTH)
    return BatchMoments(
        mean_GN=torch.randn(shape, generator=generator, dtype=torch.float64),
        squares_GN=torch.rand(shape, generator=generator, dtype=torch.float64)
        * torch.tensor(counts)[:, None],
        counts_G=torch.tensor(counts),
        present_G=torch.tensor(present),
    )


def test_loops_and_tensors_compute_the_same() -> None:
    by_loops, by_tensors = running_moments(), running_moments()
    for seed, (counts, present) in enumerate(
        [([9, 2, 1], [4, 1, 0]), ([1], [2]), ([30, 8, 5, 1], [1, 4, 0, 3])]
    ):
        batch = batch_moments(counts, present, seed)
        for update, running in ((update_by_loops, by_loops), (update_by_tensors, by_tensors)):
            update(running, batch, momentum=0.2, smallest=6)
    for first, second in zip(astuple(by_loops), astuple(by_tensors), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
