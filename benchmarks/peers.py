"""Workers of the peers: each peer's model and training step, on batches prepared in memory in advance.

    python peers.py LIBRARY THREADS [CHECKOUT]       a worker for LIBRARY
    python peers.py prepare CSV FOLDER               FuxiCTR's preparation of a CSV file, once

Sizes are equal for all: embedding size 16, layers 128-64-32 with ReLU, three full cross layers, Adam with learning rate
1e-3, no dropout and no regularizer. Runs in the environment of the peers, without ctrbench.

The package of FuxiCTR contains layers, training step and preparation, but not the models of its repository: DNN and
DCNv2 are assembled here from its layers; APG is loaded from a checkout. The loops of DeepCTR-Torch and torch-rechub are
called as a whole, with a list of batches instead of their data loaders. Scenario-Wise-Rec is in no package index; its
part follows its public code and is untested.
"""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from worker import Opened, Supply, Unavailable, serve

EMBEDDING, HIDDEN, CROSS_LAYERS, RATE = 16, [128, 64, 32], 3, 1e-3
DOMAIN = "field0"
MAX_ROWS = 409_600
"""Number of rows from which batches are cut; the speed of a peer does not depend on it."""
BATCH_NORM = "its MLP always has batch normalization"
APG_SAME = {
    "condition_mode": "mix-wise",
    "condition_features": [DOMAIN],
    "rank_k": 16,
    "overparam_p": 128,
    "generate_bias": False,
}
"""Settings of ctrbench: the embedding of the domain generates cores of rank 16, linearly."""
APG_TEMPLATE = {
    "condition_mode": "self-wise",
    "rank_k": 8,
    "overparam_p": 64,
    "generate_bias": True,
    "hypernet_config": {"hidden_units": [512, 256], "hidden_activations": "relu", "dropout_rates": 0},
}
"""Settings of the template in its repository, except for the sizes above."""


class Data:
    """The synthetic rows, and the number of ids per field."""

    def __init__(self, request: dict[str, Any]) -> None:
        folder, self.batch_size = Path(request["folder"]), int(request["batch"])
        rows = slice(0, MAX_ROWS)
        self.ids_BF = torch.from_numpy(np.load(folder / "ids.npy", mmap_mode="r")[rows].copy()).long()
        self.label_B = torch.from_numpy(np.load(folder / "label.npy")[rows])
        self.sizes = [int(size) for size in np.load(folder / "sizes.npy")]
        self.names = [f"field{i}" for i in range(len(self.sizes))]

    def supply(self, batch_of: Callable[[torch.Tensor, torch.Tensor], object]) -> Supply:
        """Return full batches in the format of the peer."""
        parts = zip(
            *(torch.split(tensor, self.batch_size) for tensor in (self.ids_BF, self.label_B)), strict=True
        )
        batches = [batch_of(ids, label) for ids, label in parts if len(label) == self.batch_size]
        return Supply(batches, self.batch_size)

    def columns(self, ids_BF: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return one tensor of ids per field."""
        return {name: ids_BF[:, i].contiguous() for i, name in enumerate(self.names)}


def opened(model: nn.Module, supply: Supply, train: Callable[[float], object], note: str = "") -> Opened:
    """Return an open case that runs a peer's training loop on batches of the supply until the time is over."""
    model.train()
    return Opened(
        turn=lambda seconds: supply.rows_of(lambda: train(seconds)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        note=note,
    )


def fuxictr(request: dict[str, Any], checkout: str | None) -> Opened:
    """Open FuxiCTR: `train_step` of its base model."""
    from fuxictr.features import FeatureMap

    data = Data(request)
    features = FeatureMap("synthetic", "")
    features.features = OrderedDict(
        (name, {"source": "", "type": "categorical", "vocab_size": size})
        for name, size in zip(data.names, data.sizes, strict=True)
    )
    features.labels, features.default_emb_dim = ["label"], EMBEDDING
    common = {
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC"],
        "verbose": 0,
        "model_root": "",
    }
    note = ""
    if request["model"].startswith("apg"):
        model = fuxictr_apg(request["model"], features, common, checkout)
        note = "other sizes: those of its template" if request["model"] == "apg-template" else ""
    else:
        model = fuxictr_assembled(request["model"], features, common)
    model._max_gradient_norm = 10.0
    supply = data.supply(lambda ids, label: data.columns(ids) | {"label": label})

    def train(seconds: float) -> None:
        for batch in supply.turn(seconds):
            model.train_step(batch)

    return opened(model, supply, train, note)


def fuxictr_assembled(name: str, features: Any, common: dict[str, Any]) -> Any:  # noqa: ANN401  # untyped package
    """Return DNN or parallel DCNv2, assembled from FuxiCTR's layers."""
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class Assembled(BaseModel):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__(features, **common)
            width = features.sum_emb_out_dim()
            self.embedding = FeatureEmbedding(features, EMBEDDING)
            self.tower = MLP_Block(input_dim=width, hidden_units=HIDDEN, hidden_activations="ReLU")
            self.cross = CrossNetV2(width, CROSS_LAYERS) if name == "dcnv2" else None
            self.last = nn.Linear(HIDDEN[-1] + (width if self.cross else 0), 1)
            self.compile(common["optimizer"], common["loss"], RATE)
            self.reset_parameters()

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            z_BN = self.embedding(self.get_inputs(inputs), flatten_emb=True)
            deep = self.tower(z_BN)
            joined = deep if self.cross is None else torch.cat([self.cross(z_BN), deep], dim=-1)
            return {"y_pred": self.output_activation(self.last(joined))}

    return Assembled()


def fuxictr_apg(name: str, features: Any, common: dict[str, Any], checkout: str | None) -> Any:  # noqa: ANN401
    """Return APG on DCNv2 from a checkout of FuxiCTR's repository."""
    if checkout is None:
        raise Unavailable("not in FuxiCTR's package; pass a checkout of its repository with --fuxictr")
    sys.path.insert(0, str(Path(checkout) / "model_zoo"))
    model_class = importlib.import_module("APG.src.APG_DCNv2").APG_DCNv2
    return model_class(
        features,
        embedding_dim=EMBEDDING,
        parallel_dnn_hidden_units=HIDDEN,
        dnn_activations="ReLU",
        num_cross_layers=CROSS_LAYERS,
        learning_rate=RATE,
        **common,
        **(APG_TEMPLATE if name == "apg-template" else APG_SAME),
    )


def deepctr(request: dict[str, Any], _checkout: str | None) -> Opened:
    """Open DeepCTR-Torch: `fit` of WDL without a wide part, or of DCN with full matrices."""
    import requests

    requests.get = None  # The package requests its newest version when imported.
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DCN, WDL, basemodel

    data = Data(request)
    columns = [SparseFeat(name, size, EMBEDDING) for name, size in zip(data.names, data.sizes, strict=True)]
    common = {"dnn_hidden_units": HIDDEN, "l2_reg_linear": 0, "l2_reg_embedding": 0, "l2_reg_dnn": 0}
    if request["model"] == "dcnv2":
        cross = {"cross_num": CROSS_LAYERS, "cross_parameterization": "matrix", "l2_reg_cross": 0}
        model = DCN([], columns, **common, **cross)
    else:
        model = WDL([], columns, **common)
    model.compile(torch.optim.Adam(model.parameters(), lr=RATE), "binary_crossentropy")
    supply = data.supply(lambda ids, label: (ids.float(), label))
    stub = {name: np.zeros(1) for name in data.names}

    def train(seconds: float) -> None:
        basemodel.DataLoader = lambda **_: supply.turn(seconds)
        model.fit(dict(stub), np.zeros(1), verbose=0)

    return opened(model, supply, train)


def rechub(request: dict[str, Any], _checkout: str | None) -> Opened:
    """Open torch-rechub: `train_one_epoch` of its trainer, on its DCNv2 or its embedding and MLP."""
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.basic.layers import MLP, EmbeddingLayer
    from torch_rechub.models.ranking import DCNv2
    from torch_rechub.trainers import CTRTrainer

    class Tower(nn.Module):
        def __init__(self, features: list[Any]) -> None:
            super().__init__()
            self.features, self.embedding = features, EmbeddingLayer(features)
            self.tower = MLP(len(features) * EMBEDDING, dims=HIDDEN)

        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            z_BN = self.embedding(inputs, self.features, squeeze_dim=True)
            return torch.sigmoid(self.tower(z_BN)[:, 0])

    data = Data(request)
    features = [
        SparseFeature(name, vocab_size=size, embed_dim=EMBEDDING)
        for name, size in zip(data.names, data.sizes, strict=True)
    ]
    tower = {"dims": HIDDEN, "dropout": 0, "activation": "relu"}
    is_crossed = request["model"] == "dcnv2"
    model = (
        DCNv2(features, CROSS_LAYERS, tower, use_low_rank_mixture=False) if is_crossed else Tower(features)
    )
    trainer = CTRTrainer(model, optimizer_params={"lr": RATE})
    supply = data.supply(lambda ids, label: (data.columns(ids), label))
    return opened(model, supply, lambda seconds: trainer.train_one_epoch(supply.turn(seconds)), BATCH_NORM)


def swr(request: dict[str, Any], checkout: str | None) -> Opened:
    """Open Scenario-Wise-Rec: `train_one_epoch` of its trainer, on its AdaSparse or its STAR. Untested."""
    if checkout is None:
        raise Unavailable("in no package index; pass a checkout with --scenario-wise-rec")
    sys.path.insert(0, checkout)
    part = importlib.import_module
    data, zoo = Data(request), part("scenario_wise_rec.models.multi_domain")
    sparse = part("scenario_wise_rec.basic.features").SparseFeature
    features = [
        sparse(name, vocab_size=size, embed_dim=EMBEDDING)
        for name, size in zip(data.names, data.sizes, strict=True)
    ]
    if request["model"] == "adasparse":
        tower = {"dims": HIDDEN, "dropout": 0.0, "activation": "relu"}
        model = zoo.AdaSparse(features[:1], features[1:], tower)
    else:
        model = zoo.Star(features, data.sizes[0] - 1, list(HIDDEN), [32])
    trainer = part("scenario_wise_rec.trainers").CTRTrainer(model, "synthetic", optimizer_params={"lr": RATE})

    def batch_of(ids: torch.Tensor, label: torch.Tensor) -> object:
        # Domain ids start at 0 there.
        return data.columns(ids) | {"domain_indicator": ids[:, 0] - 1}, label

    supply = data.supply(batch_of)
    return opened(model, supply, lambda seconds: trainer.train_one_epoch(supply.turn(seconds)), BATCH_NORM)


def prepare(csv: str, folder: str) -> None:
    """Encode a whole CSV file with the preprocessing of FuxiCTR."""
    from fuxictr.preprocess import FeatureProcessor, build_dataset

    with Path(csv).open(encoding="utf-8") as lines:
        names = next(lines).strip().split(",")
    columns = [
        {"name": name, "active": True, "dtype": "int", "type": "categorical"}
        for name in names
        if name != "label"
    ]
    encoder = FeatureProcessor(
        columns, {"name": "label", "dtype": "float"}, dataset_id="synthetic", data_root=folder
    )
    build_dataset(encoder, train_data=csv)


if __name__ == "__main__":
    library, *arguments = sys.argv[1:]
    if library == "prepare":
        prepare(*arguments)
    else:
        torch.set_num_threads(int(arguments[0]))
        checkout = arguments[1] if len(arguments) > 1 else None
        openers = {"fuxictr": fuxictr, "deepctr": deepctr, "rechub": rechub, "swr": swr}
        serve(lambda request: openers[library](request, checkout))
