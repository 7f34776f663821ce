from __future__ import annotations

import torch

from ctrbench.nn.lists import Lists, take_lists


def test_softmax_over_lists_sums_to_one_for_large_scores_too() -> None:
    offsets = torch.tensor([0, 2, 2, 5])
    lists = Lists(offsets, torch.device("cpu"))
    share = lists.softmax(torch.tensor([[1e4, 0.0], [1e4, 0.0], [-1e4, 1.0], [0.0, 1.0], [0.0, 1.0]]))
    third = [1 / 3] * 3
    torch.testing.assert_close(share.T, torch.tensor([[0.5, 0.5, 0.0, 0.5, 0.5], [0.5, 0.5, *third]]))


def test_negatives_are_drawn_from_all_other_lists() -> None:
    offsets = torch.tensor([0, 3, 3, 4, 9])
    lists, seen = Lists(offsets, torch.device("cpu")), set()
    owner = torch.repeat_interleave(offsets.diff())
    torch.manual_seed(0)
    for _ in range(200):
        steps, negatives = lists.steps()
        assert steps.tolist() == [0, 1, 4, 5, 6, 7]
        assert (owner[steps] != owner[negatives]).all()
        seen |= {(int(owner[step]), int(other)) for step, other in zip(steps, negatives, strict=True)}
    assert seen == {(0, other) for other in range(3, 9)} | {(3, other) for other in range(4)}


def test_lists_can_be_taken_in_any_order() -> None:
    rows, offsets = torch.randn(11, 4), torch.tensor([0, 3, 3, 4, 9, 11, 11])
    wanted = torch.tensor([3, 1, 0])
    elements, taken_offsets = take_lists(offsets, wanted)
    assert taken_offsets.tolist() == [0, 5, 5, 8]
    assert torch.equal(rows[elements], torch.cat([rows[4:9], rows[0:3]]))
