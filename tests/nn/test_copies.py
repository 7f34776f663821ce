"""e_d from shuffled copies of the domain features: embeddings of their own, which z does not contain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select


@pytest.fixture
def copied(data: SplitData) -> SplitData:
    """The rows with the domain features of other rows as copies."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(2))
    return replace(
        data,
        copies_BD=data.ids_BF[order][:, :2],
        domain_B=data.domain_B[order],
        indicator_B=data.indicator_B[order],
    )


@pytest.fixture
def build(schema: Schema) -> Callable[..., CTRModel]:
    """Build a method on a backbone with copies of the domain features, or without."""

    def build(method: str, backbone: str = "dnn[hidden=8-4]", *, has_copies: bool = True) -> CTRModel:
        plan = select("methods", method).value.apply(select("backbones", backbone).value.full_plan())
        return CTRModel(plan, replace(schema, has_copies=has_copies), seed=1)

    return build


def with_other_domains(data: SplitData) -> SplitData:
    """The rows with other values of the domain features in z; the copies stay."""
    ids_BF = data.ids_BF.clone()
    ids_BF[:, :2] = ids_BF[:, :2].roll(17, dims=0)
    return replace(data, ids_BF=ids_BF)


def test_embeddings_of_copies_follow_those_of_the_fields(build: Callable[..., CTRModel]) -> None:
    own, copied = build("adasparse", has_copies=False), build("adasparse")
    table, longer = (model.embedding.table.weight.detach() for model in (own, copied))
    assert torch.equal(longer[: len(table)], table)
    assert len(longer) - len(table) == 7 + 4
    assert longer[len(table) :].std() == pytest.approx(float(table.std()), rel=0.3)
    assert not longer[len(table)].any()
    assert not longer[len(table) + 7].any()


def test_plain_does_not_read_the_copies(
    build: Callable[..., CTRModel], data: SplitData, copied: SplitData
) -> None:
    plain, control = build("plain", has_copies=False), build("plain")
    assert torch.equal(plain(data.slice(0, 50)), control(copied.slice(0, 50)))


@pytest.mark.parametrize("method", ["adasparse", "separate[max_domains=64]"])
@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "deepfm[hidden=8-4]"])
def test_copies_are_read_from_the_rows_of_their_own(
    build: Callable[..., CTRModel], copied: SplitData, method: str, backbone: str
) -> None:
    model, batch = build(method, backbone), copied.slice(0, 60)
    context = model.context(batch)
    tables = getattr(model.embedding, "tables", None)
    weight = model.embedding.table.weight if tables is None else tables[0].weight
    start = len(weight) - 7 - 4
    assert batch.copies_BD is not None
    expected = [weight[start + offset + batch.copies_BD[:, i].long(), :4] for i, offset in enumerate((0, 7))]
    assert torch.equal(context.domain_BE, torch.cat(expected, dim=1))
    assert torch.equal(context.embedding_of("age"), context.domain_BE[:, 4:])
    assert torch.equal(context.embedding_of("user"), context.z_BN[:, context.schema.slices["user"]])


def test_e_d_follows_the_copies_and_not_the_domains_of_the_rows(
    build: Callable[..., CTRModel], copied: SplitData
) -> None:
    model = build("adasparse")
    batch, other = (rows.slice(0, 60) for rows in (copied, with_other_domains(copied)))
    context, changed = model.context(batch), model.context(other)
    assert not torch.equal(context.z_BN, changed.z_BN)
    for name in ("domain_BE", "domain_GE"):
        assert torch.equal(getattr(context, name), getattr(changed, name))
    rows = torch.tensor([5, 2, 40])
    assert torch.equal(context.part(rows).domain_BE, context.domain_BE[rows])
    assert torch.equal(context.detached().domain_BE, context.domain_BE)
    assert not context.detached().domain_BE.requires_grad


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("biasnet", "hidden"),
        ("apg[version=v4,condition=mix]", "generator"),
        ("apg[version=v4,condition=group,group_feature=age]", "generator"),
        ("m2m", "scenario"),
    ],
)
def test_parts_that_read_the_domain_alone_are_blind_to_the_domains_of_the_rows(
    build: Callable[..., CTRModel], copied: SplitData, method: str, part: str
) -> None:
    model = build(method)
    module = next(module for name, module in model.named_modules() if name.endswith(f".{part}"))
    inputs: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    assert copied.copies_BD is not None
    other_copies = replace(copied, copies_BD=copied.copies_BD.roll(1, dims=0))
    for rows in (copied, with_other_domains(copied), other_copies):
        model(rows.slice(0, 60))
    same, changed, other = inputs
    assert torch.equal(same, changed)
    assert not torch.equal(same, other)


def test_hidden_domain_features_have_no_e_d_with_copies_either(
    build: Callable[..., CTRModel], copied: SplitData
) -> None:
    model = build("no_domain")
    with pytest.raises(SettingError, match="hidden from this model"):
        _ = model.context(copied.slice(0, 4)).domain_BE
