"""BiasNet: one number per domain, independent of the rest of a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.biasnet import BiasTowerModule
from ctrbench.nn.model import CTRModel
from ctrbench.plugins.registry import select

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"]


def side(model: CTRModel) -> BiasTowerModule:
    (found,) = [module for module in model.modules() if isinstance(module, BiasTowerModule)]
    return found


def stir_side_tower(model: CTRModel) -> CTRModel:
    """Draw the weights of the side tower again, so that its logit is not zero."""
    for place, parameter in enumerate(side(model).parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(place))
    return model


def by_hand(model: CTRModel, z_BN: np.ndarray) -> np.ndarray:
    """The logit of the side tower, row by row in float64."""
    names = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
    first, a, second, b = (side(model).get_parameter(name).detach().double().numpy() for name in names)
    # City and age, the domain features, are the first two fields of z.
    return np.array([(np.maximum(z[:8] @ first + a, 0.0) @ second + b)[0] for z in z_BN])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_side_tower_reads_only_e_d(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, backbone: str
) -> None:
    model, batch = stir_side_tower(build_model("biasnet", backbone)), unseen_data.slice(0, 30)
    plain = build_model("plain", backbone)(batch).detach().double().numpy()
    added = by_hand(model, model.context(batch).z_BN.detach().double().numpy())
    np.testing.assert_allclose(model(batch).detach(), plain + added, rtol=1e-4, atol=1e-5)


def test_the_added_logit_is_equal_for_all_rows_of_a_domain(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = stir_side_tower(build_model("biasnet")), data.slice(0, len(data))
    added = (model(batch) - build_model("plain")(batch)).detach()
    levels = [added[data.domain_B == domain] for domain in data.domain_B.unique()]
    assert all(float(one.max() - one.min()) < 1e-5 for one in levels)
    assert len({round(float(one[0]), 4) for one in levels}) == len(levels)


def test_e_d_learns_through_the_side_tower_too(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, slope: Callable[..., np.ndarray]
) -> None:
    model, grads = stir_side_tower(build_model("biasnet")), []
    for one in (model, build_model("plain")):
        context = one.context(unseen_data.slice(0, 4))
        context.z_BN = context.z_BN.detach().requires_grad_()
        one.net(context).sum().backward()
        assert context.z_BN.grad is not None
        grads.append(context.z_BN.grad.numpy())
    z_BN = context.z_BN.detach().double().numpy()
    expected = slope(lambda moved_BN: float(by_hand(model, moved_BN).sum()), z_BN)
    assert (np.abs(expected[:, :8]) > 1e-3).all()
    np.testing.assert_allclose(grads[0] - grads[1], expected, rtol=1e-3, atol=1e-5)


def test_the_side_tower_differs_from_the_auxiliary_network(build_model: Callable[..., CTRModel]) -> None:
    plain = build_model("plain").num_parameters()
    found = build_model("biasnet").num_parameters()
    # e_d is 8 wide: (8 + 1) 32 + 32 + 1; no parameters per domain.
    assert found == {**plain, "dense": plain["dense"] + 321}
    assert build_model("plain[aux=domain]").num_parameters()["per_domain"] > 0
    assert build_model("biasnet[hidden=5]").num_parameters()["dense"] == plain["dense"] + 51


def test_the_width_must_be_positive() -> None:
    with pytest.raises(SettingError, match="hidden"):
        _ = select("methods", "biasnet[hidden=0]").value
