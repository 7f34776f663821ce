from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.nn.routing import Routing

GROUPS = {
    "skewed": [50, 20, 9, 3, 2, 1, 1],
    "single group": [13],
    "single rows": [1, 1, 1, 1],
    "one row": [1],
    "alike": [8, 8, 8],
    "powers of two": [1, 2, 4, 8, 16],
}


def shuffled_groups(sizes: list[int]) -> torch.Tensor:
    """Group ids 3, 5, 7, … of these sizes, in no order."""
    ids = np.repeat(3 + 2 * np.arange(len(sizes)), sizes)
    return torch.from_numpy(np.random.default_rng(0).permutation(ids).astype(np.int32))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(x_BN: torch.Tensor, weight_GNM: torch.Tensor, group_B: torch.Tensor) -> torch.Tensor:
    present = Routing(group_B).present_G.tolist()
    return torch.stack(
        [row @ weight_GNM[present.index(group)] for row, group in zip(x_BN, group_B.tolist(), strict=True)]
    )


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_linear_equals_a_loop_over_rows(sizes: list[int]) -> None:
    group_B = shuffled_groups(sizes)
    x_BN, weight_GNM = drawn(len(group_B), 4), drawn(len(sizes), 4, 3, seed=1)
    product = Routing(group_B).linear(x_BN, weight_GNM)
    torch.testing.assert_close(product, by_hand(x_BN, weight_GNM, group_B), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_gradients_of_linear_equal_those_of_a_loop(sizes: list[int]) -> None:
    group_B, gradients = shuffled_groups(sizes), []
    scale = drawn(len(group_B), 3, seed=2)
    for multiply in (Routing(group_B).linear, lambda x, w: by_hand(x, w, group_B)):
        x_BN, weight_GNM = drawn(len(group_B), 4), drawn(len(sizes), 4, 3, seed=1)
        x_BN.requires_grad_()
        weight_GNM.requires_grad_()
        torch.autograd.backward((multiply(x_BN, weight_GNM) * scale).square().sum())
        gradients.append((x_BN.grad, weight_GNM.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_each_row_has_the_index_of_its_group() -> None:
    group_B = shuffled_groups([1, 5, 2])
    routing = Routing(group_B)
    assert routing.present_G.tolist() == [5, 7, 3]
    assert routing.counts_G.tolist() == [5, 2, 1]
    assert torch.equal(routing.present_G[routing.index_B], group_B.long())
    assert torch.equal(group_B[routing.first_G].long(), routing.present_G)
    assert (routing.num_groups, routing.smallest) == (3, 1)
    assert routing.share_G.tolist() == pytest.approx([5 / 8, 2 / 8, 1 / 8])
    assert [routing.has(group) for group in (3, 4, 7)] == [True, False, True]


def test_ids_of_any_width_become_indices() -> None:
    assert Routing(torch.tensor([4, 2], dtype=torch.int32)).present_G.dtype == torch.int64


def test_buckets_hold_every_row_once_and_waste_less_than_half() -> None:
    routing = Routing(shuffled_groups(GROUPS["skewed"]))
    rows = torch.cat([bucket.own for bucket in routing.buckets])
    assert sorted(rows.tolist()) == list(range(86))
    assert all(2 * len(bucket.own) > len(bucket.rows) for bucket in routing.buckets)
    assert [(bucket.groups.start, bucket.groups.stop) for bucket in routing.buckets] == [
        (0, 1), (1, 2), (2, 3), (3, 5), (5, 7),
    ]  # fmt: skip


def test_sums_over_groups_can_be_broadcast_to_rows() -> None:
    routing = Routing(torch.tensor([7, 3, 7, 7]))
    x_BN = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    assert routing.present_G.tolist() == [7, 3]
    assert routing.sum(x_BN).tolist() == [[8.0, 80.0], [2.0, 20.0]]
    assert routing.broadcast(routing.sum(x_BN))[:, 0].tolist() == [8.0, 2.0, 8.0, 8.0]


def test_a_second_derivative_of_a_grouped_product_is_refused() -> None:
    x_BN, weight_GNM = drawn(3, 2).requires_grad_(), drawn(2, 2, 2).requires_grad_()
    product = Routing(torch.tensor([1, 2, 1])).linear(x_BN, weight_GNM)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(product.sum(), x_BN, create_graph=True)


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_members_are_the_rows_of_each_group(sizes: list[int]) -> None:
    group_B = shuffled_groups(sizes)
    routing = Routing(group_B)
    assert [group for group, _ in routing.members] == routing.present_G.tolist()
    for group, rows in routing.members:
        assert rows.tolist() == torch.nonzero(group_B == group).flatten().tolist()
