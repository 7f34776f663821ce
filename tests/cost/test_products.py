from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.cost.products import counted_flops

PRODUCTS: dict[str, Callable[[], object]] = {
    "mm": lambda: torch.mm(torch.ones(3, 4), torch.ones(4, 5)),
    "mm out": lambda: torch.mm(torch.ones(3, 4), torch.ones(4, 5), out=torch.empty(3, 5)),
    "linear": lambda: torch.nn.functional.linear(torch.ones(3, 4), torch.ones(5, 4), torch.ones(5)),
    "addmm_": lambda: torch.ones(3, 5).addmm_(torch.ones(3, 4), torch.ones(4, 5)),
    "bmm": lambda: torch.bmm(torch.ones(3, 1, 4), torch.ones(3, 4, 5)),
    "baddbmm_": lambda: torch.ones(3, 1, 5).baddbmm_(torch.ones(3, 1, 4), torch.ones(3, 4, 5)),
    "addbmm": lambda: torch.addbmm(torch.ones(1, 5), torch.ones(3, 1, 4), torch.ones(3, 4, 5)),
    "mv": lambda: torch.mv(torch.ones(12, 5), torch.ones(5)),
    "addmv_": lambda: torch.ones(12).addmv_(torch.ones(12, 5), torch.ones(5)),
    "dot": lambda: torch.dot(torch.ones(60), torch.ones(60)),
    "einsum": lambda: torch.einsum("bn,nm->bm", torch.ones(3, 4), torch.ones(4, 5)),
}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_products_count_equally_in_every_form(product: Callable[[], object]) -> None:
    with counted_flops() as counter:
        product()
    assert counter.get_total_flops() == 2 * 3 * 4 * 5
