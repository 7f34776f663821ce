"""Methods and estimators that are written from parts and checked on one small backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent, indent

import pytest

from ctrbench.contract.check import Finding, check

SMALL = "dnn[hidden=8-4]"
AFTER_LAYERS = 'plan.after_dense(lambda dense: Part(name=f"{dense.name}.part"))'

METHOD = """
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ctrbench.extend import *


class Tried(Method):
    def rewrite(self, plan):
        return {edit}

{of_method}


@dataclass(frozen=True, kw_only=True)
class Part(Stage):
    def build(self, num_inputs, build):
        return PartModule(num_inputs, build)


class PartModule(StageModule):
    def __init__(self, num_inputs, build):
        super().__init__()
        self.num_outputs = num_inputs
{init}

    def forward(self, x, context):
{forward}


{more}
"""

ESTIMATOR = """
import numpy as np

from ctrbench.extend import *


class Tried(Estimator):
    def fit(self, train, dev, *, schema, seed):
        rate = float(train.label_B.mean().clip(0.01, 0.99))
        number = float(np.log(rate / (1.0 - rate)))
{fit}
        return Found(number, loss)


class Found(Fitted):
    def __init__(self, number, loss):
        super().__init__(steps=1, num_parameters=1, loss=loss, notes=dict(number=number))

    def logits(self, data):
        x = self.notes["number"] + data.ids_BF[:, 0].numpy() / 1000
{logits}
        return x
"""


@pytest.fixture
def check_method(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Check a method whose stage has the given code, by default the identity, after each hidden layer."""

    def find(
        *,
        edit: str = AFTER_LAYERS,
        of_method: str = "",
        init: str = "pass",
        forward: str = "return x",
        more: str = "",
        rules: Sequence[str] | None = None,
    ) -> dict[str, Finding]:
        content = {
            "edit": edit,
            "of_method": _block(of_method, 4),
            "init": _block(init, 8),
            "forward": _block(forward, 8),
            "more": dedent(more),
        }
        return _findings(tmp_path, METHOD.format(**content), rules)

    return find


@pytest.fixture
def check_estimator(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Check an estimator with the given code, by default a sound one."""

    def find(
        *, fit: str = "loss = 0.5", logits: str = "pass", rules: Sequence[str] | None = None
    ) -> dict[str, Finding]:
        content = {"fit": _block(fit, 8), "logits": _block(logits, 8)}
        return _findings(tmp_path, ESTIMATOR.format(**content), rules)

    return find


def _block(code: str, spaces: int) -> str:
    return indent(dedent(code), " " * spaces)


def _findings(folder: Path, code: str, rules: Sequence[str] | None) -> dict[str, Finding]:
    file = folder / "tried.py"
    file.write_text(code, encoding="utf-8")
    return {finding.rule: finding for finding in check(str(file), backbones=[SMALL], rules=rules)}
