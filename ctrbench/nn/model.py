"""The model that a plan describes, and its only builder.

A `CTRModel` consists of the embeddings and a `Network`, which holds the plan's stages.

Shapes in names: B rows, N inputs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.capabilities import Capabilities, check_declarations
from ctrbench.nn.context import Context
from ctrbench.nn.embed import FieldEmbedding, Inputs
from ctrbench.nn.layer_output import LayerOutput
from ctrbench.nn.lists import Behaviors
from ctrbench.nn.network import Network, Precision
from ctrbench.nn.plan import Plan
from ctrbench.nn.pooling import RowLoss
from ctrbench.nn.schema import Schema
from ctrbench.nn.separate import SeparateEmbedding, SeparateNetworks, check_separable
from ctrbench.nn.stages import StageModule
from ctrbench.nn.tables import EMBEDDING_STD, Reader, RowTable

Owner = Literal["embedding", "dense", "per_domain"]
"""The part of a model to which a parameter belongs: shared embeddings, shared weights, or single domains."""


class CTRModel(nn.Module):
    """The model that a plan describes: a batch of rows to logits of shape (B,).

    Weights depend only on plan, schema and seed. With `is_separate` each value of the indicator has its own embeddings
    and its own network. Raises `SettingError` if the data lack what the plan needs, such as a sequence with a target,
    and `ContractError` if a module's declarations would be ignored.
    """

    def __init__(self, plan: Plan, schema: Schema, *, seed: int, precision: Precision = "float32") -> None:
        super().__init__()
        if plan.hides_domain:
            schema = _without_domain(schema)
        _check_pooling(plan, schema)
        _check_min_count(plan, schema)
        build = _make_build(plan, schema, seed)
        self.common, self.seed = plan.common, seed
        self.schema, self.attends, self.is_separate = schema, plan.attends, plan.separate is not None
        self.embedding: FieldEmbedding
        self.net: Network | SeparateNetworks
        if plan.separate is None:
            self.embedding = FieldEmbedding(
                schema,
                build,
                first_order=plan.first_order,
                pooling=plan.pooling,
                id_dropout=plan.common.id_dropout,
            )
            networks = [Network(plan, build)]
            self.net = networks[0]
        else:
            check_separable(schema, plan.separate)
            self.embedding = SeparateEmbedding(
                schema,
                build,
                first_order=plan.first_order,
                pooling=plan.pooling,
                id_dropout=plan.common.id_dropout,
            )
            networks = [Network(plan, build) for _ in range(schema.num_indicators)]
            self.net = SeparateNetworks(networks)
        check_declarations(self)
        _check_regularization(self)
        for network in networks:
            network.precision = precision
            network.start_at(schema.base_rate)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network that all rows share, or those of the values of the indicator in their order."""
        return tuple(self.net.networks)

    def context(self, inputs: Inputs, reader: Reader | None = None) -> Context:
        """Embed a batch; returns the context that the network runs on, whole or in parts."""
        losses: list[RowLoss] = []
        behaviors: dict[str, Behaviors] = {}
        copies: list[torch.Tensor] = []
        z_BN, first_order_BF = self.embedding(
            inputs, reader, losses, behaviors if self.attends else None, copies
        )
        return Context(
            schema=self.schema,
            z_BN=z_BN,
            domain_B=inputs.domain_B,
            indicator_B=inputs.indicator_B,
            copies_BE=copies[0] if copies else None,
            reader=reader,
            first_order_BF=first_order_BF,
            row_losses=tuple(losses),
            behaviors=behaviors,
        )

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Return logits of shape (B,)."""
        logits: torch.Tensor = self.net(self.context(inputs))
        return logits

    def advance(self, progress: float) -> None:
        """Call `advance` of every stage; to be called after each optimizer step."""
        for module in self._stage_modules:
            module.advance(progress)

    @cached_property
    def _stage_modules(self) -> tuple[StageModule, ...]:
        return tuple(module for module in self.modules() if isinstance(module, StageModule))

    def owners(self) -> dict[nn.Parameter, Owner]:
        """Return the owner of each parameter: `embedding`, `per_domain`, or `dense` if all domains share it.

        Parameters of a `RowTable` follow its rule. Other parameters are per domain if a module that contains them
        declares `Capabilities.of_domains`.
        """
        owners: dict[nn.Parameter, Owner] = dict.fromkeys(self.parameters(), "dense")
        for module in self.modules():
            if isinstance(module, Capabilities) and module.of_domains:
                owners |= dict.fromkeys(module.parameters(), "per_domain")
        for module in self.modules():
            if isinstance(module, RowTable):
                owners[module.weight] = "embedding" if module.rule == "embedding" else "per_domain"
        return owners

    def num_parameters(self) -> dict[str, int]:
        """Count trainable parameters by owner: embedding, dense (shared) and per_domain."""
        counts: dict[str, int] = {"embedding": 0, "dense": 0, "per_domain": 0}
        for parameter, owner in self.owners().items():
            counts[owner] += parameter.numel()
        return counts


def _make_build(plan: Plan, schema: Schema, seed: int) -> Build:
    std = plan.common.embedding_std
    return Build(schema=schema, seed=seed, embedding_std=EMBEDDING_STD if std is None else std)


def _check_regularization(model: CTRModel) -> None:
    """Raise `SettingError` for a regularization of hidden layers that no layer of the model has."""
    requested = model.common.regularization
    layers = (module for module in model.modules() if isinstance(module, LayerOutput))
    if requested.is_active and all(layer.regularization != requested for layer in layers):
        raise SettingError(
            "dropout and tower_norm must have an effect on a hidden layer of the tower",
            value="no hidden layer of the model has it",
            remedy="leave it out; a method that makes its own layers ends them in the module of Dense.make_output()",
        )


def _without_domain(schema: Schema) -> Schema:
    schema = replace(schema, hidden=schema.domain_features)
    if not schema.num_inputs:
        raise SettingError(
            "a model without the domain features must have other fields",
            value=f"all fields are domain features: {', '.join(schema.domain_features)}",
            remedy="choose a domain set that leaves at least one field",
        )
    return schema


def _check_min_count(plan: Plan, schema: Schema) -> None:
    min_count = plan.common.min_count
    if min_count > 1 and schema.min_count != min_count:
        raise SettingError(
            "min_count must have data whose ids are counted",
            value=f"min_count={min_count}, and the rows per id are unknown here",
            remedy="leave it out, or train the method on a prepared dataset",
        )


def _check_pooling(plan: Plan, schema: Schema) -> None:
    settings = ["attention=true"] if plan.attends else []
    settings += [f"pooling={plan.pooling.kind}"] if plan.pooling.kind != "mean" else []
    if settings and not schema.targets:
        raise SettingError(
            f"{settings[0]} must have a sequence with a target, a field that the model uses",
            value="no sequence has a target",
            remedy=f"set target = … for a sequence in the card, or leave {settings[0].partition('=')[0]} out",
        )
