"""Template of a new method, as one file.

The template is a complete method: it passes the contract, learns, and shows each part that a method can have. It is
short, since authors copy all of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from keyword import iskeyword
from pathlib import Path

from ctrbench.errors import SettingError
from ctrbench.plugins.registry import group_members, plugins
from ctrbench.storage.files import write_text

TEMPLATE = '''"""@title@: the domain scales each neuron that leaves a hidden layer.

Paper: none yet
Year: @year@
Uses: e_d
Parameters per domain: none

h' = h ⊙ limit ^ tanh(e_d W), with e_d the embeddings of the domain features and a W for each layer. W starts at zero,
so the model starts as its backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from ctrbench.extend import Build, Context, Field, LogRange, Method, Plan, Stage, StageModule


class @name@(Method):
    """A gate after each hidden layer of any backbone."""

    limit: Annotated[float, LogRange(1.2, 8.0)] = Field(default=2.0, gt=1.0)
    """Largest factor of a neuron; the smallest is 1/limit."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate after each hidden layer."""
        return plan.after_dense(lambda dense: @name@Gate(name=f"{dense.name}.gate", limit=self.limit))

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: initial logits equal the backbone's."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class @name@Gate(Stage):
    """A gate as part of a plan, without weights."""

    limit: float

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module."""
        return @name@GateModule(self, num_inputs, build)


class @name@GateModule(StageModule):
    """A gate with its weights."""

    def __init__(self, stage: @name@Gate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.limit = num_inputs, stage.limit
        self.weight = nn.Parameter(torch.zeros(build.schema.domain_width, num_inputs))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        return x_BN * self.limit ** torch.tanh(context.domain_BE @ self.weight)
'''


def new_method(name: str, folder: Path) -> Path:
    """Write the method `name` to `folder` and return its file, `name.py`; never overwrite a file."""
    _check_name(name)
    file = folder / f"{name}.py"
    if file.exists():
        raise SettingError(
            "a new method must not overwrite a file", value=file, remedy="give another name or --folder"
        )
    return write_text(file, _fill_template(name))


def _check_name(name: str) -> None:
    if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
        raise SettingError(
            "the name of a method must consist of lower-case letters, digits and _",
            value=name,
            remedy="use letters, digits and _, such as my_method",
        )
    if name in {*plugins("methods"), *group_members("methods")}:
        raise SettingError(
            "a new method must not have the name of another method or group",
            value=name,
            remedy="choose another name",
        )


def _fill_template(name: str) -> str:
    title = name.replace("_", " ").capitalize()
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if f" {class_name}," in TEMPLATE or class_name == "StageModule":
        class_name = f"{class_name}Method"
    year = str(datetime.now(UTC).year)
    return TEMPLATE.replace("@title@", title).replace("@name@", class_name).replace("@year@", year)
