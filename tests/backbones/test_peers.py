"""Backbones against independent implementations: same weights, same rows, same logits. Skipped without the packages.

With this project and its `dev` extra installed, beside them and in an environment of their own, since FuxiCTR pins an
older polars than ours:

    pip install --no-deps deepctr-torch==0.3.0 fuxictr==2.3.10
    pip install h5py pandas pyyaml requests tqdm "ray[data]"
    python -m pytest tests/backbones/test_peers.py

Seen to pass with deepctr-torch 0.3.0, fuxictr 2.3.10, torch 2.13.0, numpy 2.4.6 and ray 2.60.0, Python 3.11. Only parts
that mean the same are compared: DeepCTR's CIN without activation and its bias at zero, its FM and products
without plain numbers, its DCN-Mix with one layer (its layers share a gate). torch-rechub is left out: it scales
attention, its MLP always has batch normalization, and its first order is linear in the embeddings.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from ctrbench.data.batches import Batch
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select

SIZES, EMBEDDING, HIDDEN, ROWS = (9, 7, 12, 5, 8), 4, (8, 6), 40
TOLERANCE = 1e-8
"""Of a logit; all is in float64."""
PLAIN = {"l2_reg_embedding": 0, "l2_reg_dnn": 0, "dnn_hidden_units": HIDDEN, "dnn_activation": torch.nn.Tanh}


@pytest.fixture(scope="module")
def deepctr() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The package asks for its newest version in a thread when imported.
        patch.setattr(threading.Thread, "start", lambda thread: None)
        yield pytest.importorskip("deepctr_torch.models", reason="deepctr-torch is not installed")


@pytest.fixture(scope="module")
def fuxictr() -> Iterator[ModuleType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("fuxictr.pytorch.layers", reason="fuxictr is not installed")


class Ours:
    """A backbone with random weights, and its logits on some rows."""

    def __init__(self, selector: str, *, num_numbers: int = 0) -> None:
        ids = [
            FieldShape(name=f"field{place}", kind="categorical", role="other", size=size)
            for place, size in enumerate(SIZES)
        ]
        numbers = [
            FieldShape(name=f"number{place}", kind="numeric", role="other", size=0)
            for place in range(num_numbers)
        ]
        schema = Schema(
            fields=(*ids, *numbers),
            embedding_size=EMBEDDING,
            domain_features=("field0",),
            num_domains=SIZES[0] - 1,
            indicator_rows=(0, *[10] * (SIZES[0] - 1)),
            base_rate=0.3,
        )
        plan = select("backbones", f"{selector[:-1]},hidden={HIDDEN[0]}-{HIDDEN[1]}]").value.plan()
        model = CTRModel(plan, schema, seed=1).double()
        torch_generator, generator = torch.Generator().manual_seed(1), np.random.default_rng(1)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.5, generator=torch_generator)
        self.ids_BF = torch.from_numpy(generator.integers(0, SIZES, (ROWS, len(SIZES))).astype(np.int32))
        self.numeric_BK = torch.from_numpy(generator.standard_normal((ROWS, num_numbers)))
        domain_B = self.ids_BF[:, 0].contiguous()
        batch = Batch(
            ids_BF=self.ids_BF,
            bags=(),
            numeric_BK=self.numeric_BK,
            domain_B=domain_B,
            indicator_B=domain_B,
            label_B=torch.zeros(ROWS),
        )
        with torch.no_grad():
            self.z_BN, self.logits = model.context(batch).z_BN, model(batch)
        self.weight = {name.removeprefix("net."): value for name, value in model.state_dict().items()}

    def columns(self) -> list[object]:
        """Return DeepCTR's description of the fields."""
        from deepctr_torch.inputs import DenseFeat, SparseFeat

        ids = [SparseFeat(f"field{place}", size, EMBEDDING) for place, size in enumerate(SIZES)]
        return [*ids, *(DenseFeat(f"number{place}", 1) for place in range(self.numeric_BK.shape[1]))]

    def expect(self, peer: torch.nn.Module, **more: torch.Tensor) -> None:
        """Copy the weights that all of DeepCTR's models have, and `more`, and compare."""
        peer = peer.double()
        state = dict(self._common(peer)) | {name.replace("__", "."): value for name, value in more.items()}
        missing = peer.load_state_dict(state, strict=False)
        assert missing.unexpected_keys == []
        assert missing.missing_keys == []
        with torch.no_grad():
            found = peer.eval()(torch.cat([self.ids_BF.double(), self.numeric_BK], dim=1))[:, 0]
        self.compare(found)

    def compare(self, found: torch.Tensor) -> None:
        """Compare logits, which differ between rows."""
        assert self.logits.std() > 0.3
        torch.testing.assert_close(found, self.logits, rtol=TOLERANCE, atol=TOLERANCE)

    def _common(self, peer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        tables = self.weight["embedding.table.weight"].split(SIZES)
        has_linear = any(name.startswith("linear_model") for name in peer.state_dict())
        for place, table in enumerate(tables):
            yield f"embedding_dict.field{place}.weight", table[:, :EMBEDDING]
            if has_linear:
                yield f"linear_model.embedding_dict.field{place}.weight", table[:, EMBEDDING:]
        if has_linear and self.numeric_BK.shape[1]:
            yield "linear_model.weight", self.weight["logits.0.weight"]
        for place in range(len(HIDDEN)):
            yield f"dnn.linears.{place}.weight", self.weight[f"tower.{place}.weight"].T
            yield f"dnn.linears.{place}.bias", self.weight[f"tower.{place}.bias"]
        yield "out.bias", self.weight["head.0.bias"]
        if "cin_linear.weight" not in peer.state_dict():
            yield "dnn_linear.weight", self.weight["head.0.weight"].T


@pytest.mark.parametrize("num_numbers", [0, 2])
def test_dnn(num_numbers: int, deepctr: ModuleType) -> None:
    ours = Ours("dnn[]", num_numbers=num_numbers)
    ours.expect(deepctr.WDL([], ours.columns(), task="regression", **PLAIN))


@pytest.mark.parametrize("num_numbers", [0, 2])
def test_widedeep(num_numbers: int, deepctr: ModuleType) -> None:
    ours = Ours("widedeep[]", num_numbers=num_numbers)
    ours.expect(deepctr.WDL(ours.columns(), ours.columns(), task="regression", **PLAIN))


def test_deepfm(deepctr: ModuleType) -> None:
    ours = Ours("deepfm[]")
    ours.expect(deepctr.DeepFM(ours.columns(), ours.columns(), task="regression", **PLAIN))


@pytest.mark.parametrize("num_numbers", [0, 2])
def test_dcnv2(num_numbers: int, deepctr: ModuleType) -> None:
    ours, cross = Ours("dcnv2[layers=2]", num_numbers=num_numbers), "interactions.0"
    settings = {"cross_num": 2, "cross_parameterization": "matrix", "task": "regression", **PLAIN}
    peer = deepctr.DCN([], ours.columns(), **settings)
    kernels = [ours.weight[f"{cross}.kernels.{layer}.0"].T for layer in range(2)]
    biases = [ours.weight[f"{cross}.biases.{layer}"][:, None] for layer in range(2)]
    ours.expect(peer, crossnet__kernels=torch.stack(kernels), crossnet__bias=torch.stack(biases))


def test_dcnv2_with_experts(deepctr: ModuleType) -> None:
    ours = Ours("dcnv2[layers=1,experts=3,rank=2]")
    part = {name: ours.weight[f"interactions.0.layers.0.{name}"] for name in ("down", "core", "up", "gate")}
    peer = deepctr.DCNMix(
        [], ours.columns(), cross_num=1, low_rank=2, num_experts=3, task="regression", **PLAIN
    )
    gates = {f"crossnet__gating__{k}__weight": part["gate"][:, k : k + 1].T for k in range(3)}
    ours.expect(
        peer,
        crossnet__V_list=torch.stack(part["down"].split(2, dim=1))[None],
        crossnet__U_list=torch.stack(part["up"].split(2)).mT[None],
        crossnet__C_list=part["core"].mT[None],
        crossnet__bias=ours.weight["interactions.0.layers.0.bias"][None, :, None],
        **gates,
    )


def test_pnn(deepctr: ModuleType) -> None:
    ours = Ours("pnn[]")
    ours.expect(deepctr.PNN(ours.columns(), task="regression", **PLAIN))


@pytest.mark.parametrize("heads", [1, 2])
def test_autoint(heads: int, deepctr: ModuleType) -> None:
    ours = Ours(f"autoint[layers=2,heads={heads},head_size={EMBEDDING // heads}]")
    settings = {"att_layer_num": 2, "att_head_num": heads, "task": "regression", **PLAIN}
    names = ("W_Query", "W_key", "W_Value", "W_Res")
    weights = {
        f"int_layers__{layer}__{name}": part
        for layer in range(2)
        for name, part in zip(
            names, ours.weight[f"interactions.0.weights.{layer}"].chunk(4, dim=1), strict=True
        )
    }
    ours.expect(deepctr.AutoInt([], ours.columns(), **settings), **weights)


@pytest.mark.parametrize("split_half", [False, True])
def test_xdeepfm(split_half: bool, deepctr: ModuleType) -> None:
    ours = Ours(f"xdeepfm[cin=6-4-3,split_half={split_half}]")
    cin = {"cin_layer_size": (6, 4, 3), "cin_split_half": split_half, "cin_activation": "linear"}
    peer = deepctr.xDeepFM(ours.columns(), ours.columns(), task="regression", **cin, **PLAIN)
    head = ours.weight["head.0.weight"].T
    weights = {"cin_linear__weight": head[:, : -HIDDEN[-1]], "dnn_linear__weight": head[:, -HIDDEN[-1] :]}
    for layer in range(3):
        weight_HFM = ours.weight[f"interactions.0.weights.{layer}"]
        weights[f"cin__conv1ds__{layer}__weight"] = weight_HFM.flatten(0, 1).T[:, :, None]
        weights[f"cin__conv1ds__{layer}__bias"] = torch.zeros(weight_HFM.shape[2])
    ours.expect(peer, **weights)


@pytest.mark.parametrize("selector", ["dnn[]", "dcnv2[layers=2]"])
def test_layers_of_fuxictr(selector: str, fuxictr: ModuleType) -> None:
    ours = Ours(selector, num_numbers=2)
    width = ours.z_BN.shape[1]
    tower = fuxictr.MLP_Block(input_dim=width, hidden_units=list(HIDDEN), hidden_activations="Tanh").double()
    cross = fuxictr.CrossNetV2(width, 2 if "layers" in selector else 0).double()
    for place in range(len(HIDDEN)):
        _copy(tower.mlp[2 * place], ours.weight[f"tower.{place}.weight"], ours.weight[f"tower.{place}.bias"])
    for layer, linear in enumerate(cross.cross_layers):
        kernel = ours.weight[f"interactions.0.kernels.{layer}.0"]
        _copy(linear, kernel, ours.weight[f"interactions.0.biases.{layer}"])
    with torch.no_grad():
        crossed = [cross(ours.z_BN)] if len(cross.cross_layers) else []
        joined = torch.cat([*crossed, tower(ours.z_BN)], dim=1)
    ours.compare((joined @ ours.weight["head.0.weight"] + ours.weight["head.0.bias"])[:, 0])


def _copy(linear: torch.nn.Linear, weight_NM: torch.Tensor, bias_M: torch.Tensor) -> None:
    linear.weight.data.copy_(weight_NM.T)
    linear.bias.data.copy_(bias_M)
