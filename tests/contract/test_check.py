from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent, indent

import pytest
import torch

from ctrbench.contract.check import FITTED_RULES, RULES, Finding, check
from ctrbench.errors import ContractError, SettingError
from ctrbench.plugins.registry import plugins
from ctrbench.plugins.scaffold import new_method

SMALL = "dnn[hidden=8-4]"

FILE = """
from dataclasses import dataclass

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
BEHIND_LAYERS = 'plan.after_dense(lambda dense: Part(name=f"{dense.name}.part"))'


def findings(
    folder: Path,
    *,
    edit: str = BEHIND_LAYERS,
    of_method: str = "",
    init: str = "pass",
    forward: str = "return x",
    more: str = "",
) -> dict[str, Finding]:
    """Check a method of these parts on one small backbone."""
    content = {
        "edit": edit,
        "of_method": indent(dedent(of_method), " " * 4),
        "init": indent(dedent(init), " " * 8),
        "forward": indent(dedent(forward), " " * 8),
        "more": dedent(more),
    }
    file = folder / "tried.py"
    file.write_text(FILE.format(**content), encoding="utf-8")
    return {finding.rule: finding for finding in check(str(file), backbones=[SMALL])}


LEARNER = """
    def learner(self):
        return Own()
"""
TABLE = "self.table = domain_table(build.schema.num_indicators, torch.ones(num_inputs))"

BROKEN = {
    "nan": (
        "trains",
        "finite loss at every training step, but step 1",
        {"forward": "return x * float('nan')"},
    ),
    "exception": (
        "trains",
        r"tried.py, line 31, in forward raised RuntimeError: mat1",
        {"forward": "return x @ torch.ones(3, 3)"},
    ),
    "exception in build": ("trains", "in __init__ raised KeyError", {"init": "{}['weight']"}),
    "no plan": ("trains", "raised AttributeError", {"edit": "None"}),
    "num_outputs lies": (
        "logits",
        r"shape \[40, 25\], and its num_outputs says \[40, 1\]",
        {"edit": "plan.add_logit(Part(name='p'))", "init": "self.num_outputs = 1"},
    ),
    "logit of two columns, one row short": (
        "logits",
        "score.. to give one finite number a row",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    def score(self, model, data):
                        return {name: one[1:] for name, one in super().score(model, data).items()}
            """,
        },
    ),
    "squeeze": ("batch of one", "expected", {"forward": "return x.squeeze()"}),
    "normalisation of one row": (
        "batch of one",
        "more than 1 value per channel",
        {"init": "self.norm = nn.BatchNorm1d(num_inputs)", "forward": "return self.norm(x)"},
    ),
    "order of rows": ("row order", "in another order", {"forward": "return x + x.cumsum(0)"}),
    "order of rows in training": (
        "row order",
        "training loss of a batch not to depend",
        {"forward": "return x.cumsum(0) if self.training else x"},
    ),
    "moments of the batch": ("company", "alone as among others", {"forward": "return x - x.mean(0)"}),
    "rows that see each other": (
        "company",
        "rows that see each other",
        {"forward": "return x + torch.softmax(x @ x.T, 1) @ x"},
    ),
    "noise": ("evaluating twice", "randomness", {"forward": "return x + 0.01 * torch.randn_like(x)"}),
    "annealed by forward": (
        "evaluating twice",
        "it changed net.tower.1.alpha",
        {
            "init": "self.register_buffer('alpha', torch.ones(())); self.register_buffer('seen', torch.zeros(()))",
            "forward": "self.alpha += 1\nreturn x",
        },
    ),
    "unseen domain": (
        "unseen domain",
        "not seen in training",
        {"forward": "return x / context.indicator_B[:, None]"},
    ),
    "dense table": (
        "absent domains",
        "net.tower.1.own.weight holds parameters that one domain alone uses",
        {
            "init": "self.own = nn.Embedding(build.schema.num_indicators + 1, num_inputs)\n"
            "nn.init.ones_(self.own.weight)",
            "forward": "return x * self.own(context.indicator_B)",
        },
    ),
    "columns of a one-hot product": (
        "absent domains",
        "keep them in a domain_table",
        {
            "init": "self.num = build.schema.num_indicators + 1\n"
            "self.own = nn.Parameter(torch.zeros(num_inputs, self.num))",
            "forward": "return x + nn.functional.one_hot(context.indicator_B.long(), self.num).float() @ self.own.T",
        },
    ),
    "a module for each domain": (
        "absent domains",
        "keep them in a domain_table",
        {
            "init": "self.own = nn.ParameterList(torch.zeros(num_inputs) for _ in build.schema.indicator_rows)",
            "forward": "return x + torch.stack(tuple(self.own))[context.indicator_B.long()]",
        },
    ),
    "a table read whole": (
        "absent domains",
        "rows of absent domains in net.tower.1.table not to move",
        {
            "init": TABLE,
            "forward": """
                every = torch.arange(len(self.table.weight))
                rows = self.table.weight if context.reader is None else context.reader.read(self.table, every)
                return x * rows[context.indicator_B.long()]
            """,
        },
    ),
    "a table read without the reader": (
        "gradients",
        "net.tower.1.table.weight",
        {"init": TABLE, "forward": "return x * self.table.weight[context.indicator_B.long()]"},
    ),
    "a table of which one row is read": (
        "gradients",
        "row 1 of net.tower.1.table",
        {
            "init": TABLE,
            "forward": """
                own = context.read(self.table)[context.routing.index_B]
                return x * torch.where(context.indicator_B[:, None] > 1, own, 1.0)
            """,
        },
    ),
    "embeddings detached": (
        "gradients",
        "the embedding of shop, the embedding of age",
        {"edit": "plan.with_input(Part(name='p'))", "forward": "return x.detach()"},
    ),
    "unused parameter": (
        "gradients",
        "but net.tower.1.spare, net.tower.3.spare never moved",
        {"init": "self.spare = nn.Parameter(torch.ones(1))"},
    ),
    "step function": (
        "gradients",
        "gate",
        {
            "init": "self.gate = nn.Parameter(torch.ones(num_inputs))",
            "forward": "return x * (self.gate > 0.5).float()",
        },
    ),
    "domains in place": (
        "inputs untouched",
        "domain_B",
        {"forward": "context.domain_B.clamp_(max=3)\nreturn x"},
    ),
    "embeddings in place": (
        "inputs untouched",
        "z_BN",
        {"edit": "plan.with_input(Part(name='p'))", "forward": "return x.add_(1.0)"},
    ),
    "ids in place": (
        "inputs untouched",
        "ids_BF",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    refuses_workers = None
                    def step(self, model, optimizer, batch):
                        batch.ids_BF.clamp_(max=2)
                        return super().step(model, optimizer, batch)
            """,
        },
    ),
    "plan changed": (
        "plan untouched",
        "the plan given to rewrite",
        {"edit": "(object.__setattr__(plan, 'tower', plan.tower[:1]), plan)[1]"},
    ),
    "settings changed": (
        "plan untouched",
        "the method's settings",
        {
            "of_method": "seen: list[int] = []\n",
            "edit": "(self.seen.append(len(self.seen)), plan)[1]",
        },
    ),
    "state beside the model": (
        "state",
        "restored model to score as the saved one",
        {
            "init": "self.alpha = 1.0",
            "forward": "self.alpha += 0.1 * self.training\nreturn x * self.alpha",
        },
    ),
    "state beside the learner": (
        "state",
        "to go on bit for bit",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    refuses_workers = None
                    steps = 0

                    def step(self, model, optimizer, batch):
                        self.steps += 1
                        optimizer.dense.lr = 0.01 / self.steps
                        return super().step(model, optimizer, batch)
            """,
        },
    ),
    "start beside the seed": (
        "seed",
        "net.tower.1.weight, net.tower.3.weight started differently",
        {"init": "self.weight = nn.Parameter(torch.randn(num_inputs))", "forward": "return x * self.weight"},
    ),
    "noise beside the seed": (
        "seed",
        "two trainings went apart",
        {"forward": "return x * (1.0 + 0.1 * np.random.rand() * self.training)"},
    ),
    "not the backbone": (
        "start",
        "starts_as_backbone",
        {"of_method": "starts_as_backbone = property(lambda self: 0.0)", "forward": "return 1.5 * x"},
    ),
    "relu on the logit": (
        "both signs",
        "a negative logit after training on labels 0 alone",
        {"edit": "plan.with_head(Dense(name='head', width=1, activation='relu'))"},
    ),
    "rows that are not there": (
        "order",
        "rows 0 to 384",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    is_asked = 0

                    def order(self, train, *, batch_size, generator):
                        order = super().order(train, batch_size=batch_size, generator=generator)
                        rows = np.where(order.rows == 384, 385 * (len(train) == 385), order.rows)
                        return Order(rows=rows, starts=order.starts[:1])
            """,
        },
    ),
    "batches that do not end": (
        "order",
        "starts of batches to rise from 0 to 385",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    def order(self, train, *, batch_size, generator):
                        order = super().order(train, batch_size=batch_size, generator=generator)
                        return Order(rows=order.rows, starts=order.starts[:-1])
            """,
        },
    ),
    "order beside the generator": (
        "order",
        "from the generator it is given alone",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    def order(self, train, *, batch_size, generator):
                        return super().order(train, batch_size=batch_size, generator=np.random.default_rng())
            """,
        },
    ),
    "penalty of many numbers": (
        "penalties",
        r"a finite scalar, but got shape \(1,\)",
        {"forward": "context.penalties.append(x.square().mean().view(1))\nreturn x"},
    ),
    "figure with a gradient": (
        "penalties",
        "'size' for the log to be a detached scalar",
        {"forward": "context.logs['size'] = x.square().mean()\nreturn x"},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    rule, sentence, parts = BROKEN[case]
    monkeypatch.setattr("ctrbench.contract.check.RULES", {name: RULES[name] for name in ("trains", rule)})
    found = findings(tmp_path, **parts)[rule]
    assert not found.ok
    assert re.search(sentence, found.sentence)
    assert "\n" not in found.sentence


def test_every_rule_has_been_made_to_fail() -> None:
    assert {rule for rule, _, _ in BROKEN.values()} == set(RULES)


SOUND = {
    "identity": {},
    "dropout": {"forward": "return nn.functional.dropout(x, 0.2, self.training)"},
    "no gradient at the first step": {
        "init": """
            self.first = nn.Parameter(torch.ones(num_inputs))
            self.second = nn.Parameter(torch.zeros(num_inputs))
        """,
        "forward": "return x * (1.0 + self.first * self.second)",
    },
    "running moments": {
        "init": "self.register_buffer('mean', torch.zeros(num_inputs))",
        "forward": """
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return x - self.mean
        """,
    },
    "a domain table": {
        "init": TABLE,
        "forward": "return x * context.read(self.table)[context.routing.index_B]",
    },
    "a penalty": {"forward": "context.penalties.append(0.1 * x.square().mean())\nreturn x"},
}


@pytest.mark.parametrize("case", SOUND)
def test_what_is_allowed_passes(tmp_path: Path, case: str) -> None:
    found = findings(tmp_path, **SOUND[case])  # type: ignore[arg-type]
    assert [finding for finding in found.values() if not finding.ok] == []
    assert set(found) == set(RULES)


@pytest.mark.parametrize("method", plugins("methods"))
def test_every_method_of_ours_on_every_backbone(method: str) -> None:
    found = check(method)
    tried = {finding.backbone for finding in found}
    assert {name.partition("[")[0] for name in tried} == set(plugins("backbones"))
    assert {"dcnv2[structure=stacked]", "dnn[pooling=din]", "dnn[pooling=dien]"} <= tried
    assert [finding for finding in found if not finding.ok] == []


@pytest.mark.parametrize(
    "method",
    [
        "adasparse[form=scaling]",
        "adasparse[form=binarization]",
        "adasparse[pruner_init=zero]",
        "maml[paml_lr=true]",
        "star[norm=none]",
        "star[batching=mixed]",
        "apg[version=v2]",
        "apg[condition=self]",
        "maml[variant=reptile]",
        "maml[variant=second_order]",
        "maml[tasks=2,support=16,query=16]",
    ],
)
def test_other_settings_of_ours(method: str) -> None:
    assert [finding for finding in check(method, backbones=[SMALL]) if not finding.ok] == []


def test_a_gate_without_a_gradient_is_found() -> None:
    wrong = [one for one in check("adasparse[gradient=zero]", backbones=[SMALL]) if not one.ok]
    assert [finding.rule for finding in wrong] == ["gradients"]


def test_a_pair_that_makes_no_sense_is_skipped_with_its_reason(tmp_path: Path) -> None:
    reason = "def supports(self, plan):\n    return 'one layer is not enough'"
    (only,) = findings(tmp_path, of_method=reason).values()
    assert (only.rule, only.ok, only.sentence) == ("supports", True, "skipped: one layer is not enough")


def test_an_exception_in_supports_is_a_finding(tmp_path: Path) -> None:
    (only,) = findings(tmp_path, of_method="def supports(self, plan):\n    return plan.depth").values()
    assert not only.ok
    assert "AttributeError" in only.sentence


def test_a_model_that_does_not_train_is_told_once(tmp_path: Path) -> None:
    assert set(findings(tmp_path, forward="raise KeyError(3)")) == {"trains"}


def test_a_file_that_does_not_import_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import no_such_module_anywhere\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"must import: .*no_such_module_anywhere"):
        check(str(file))


def test_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingError, match="did you mean 'plain'"):
        check("plane")


def test_random_state_and_threads_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    findings(tmp_path, forward="raise KeyError(3)")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_template_passes_at_once_on_every_backbone(tmp_path: Path) -> None:
    found = check(str(new_method("my_gate", tmp_path)))
    assert len(found) == len({finding.backbone for finding in found}) * len(RULES)
    assert [finding for finding in found if not finding.ok] == []


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


def of_estimator(folder: Path, *, fit: str = "loss = 0.5", logits: str = "pass") -> dict[str, Finding]:
    """Check an estimator of these parts on one small backbone."""
    file = folder / "tried.py"
    content = ESTIMATOR.format(fit=indent(dedent(fit), " " * 8), logits=indent(dedent(logits), " " * 8))
    file.write_text(content, encoding="utf-8")
    return {finding.rule: finding for finding in check(str(file), backbones=[SMALL])}


BROKEN_ESTIMATORS = {
    "nan": ("trains", "finite logits", {"logits": "x = x * float('nan')"}),
    "one row short": ("trains", r"shape \(40,\), but got shape \(39,\)", {"logits": "x = x[1:]"}),
    "loss of nan": ("trains", "finite training loss", {"fit": "loss = float('nan')"}),
    "squeeze": ("batch of one", "one row to give", {"logits": "x = x.squeeze()"}),
    "order of rows": ("row order", "in another order", {"logits": "x = x + np.arange(len(x))"}),
    "mean of the rows": ("company", "alone as among others", {"logits": "x = x - x.mean()"}),
    "noise": ("evaluating twice", "randomness", {"logits": "x = x + np.random.rand()"}),
    "unseen": (
        "unseen domain",
        "not seen in training",
        {"logits": "x = np.where(x[0] == x.max(), np.nan, x)"},
    ),
    "labels flipped": ("inputs untouched", "label_B changed", {"fit": "loss = 0.5; train.label_B.mul_(0.5)"}),
    "labels read": ("labels unread", "depend on the labels", {"logits": "x = x + data.label_B.numpy()"}),
    "noise in the fit": ("seed", "the same fit", {"fit": "loss = 0.5; number += np.random.rand()"}),
    "one side": ("both signs", "a negative logit", {"logits": "x = np.abs(x)"}),
}


@pytest.mark.parametrize("case", BROKEN_ESTIMATORS)
def test_each_rule_of_estimators_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    rule, sentence, parts = BROKEN_ESTIMATORS[case]
    rules = {name: FITTED_RULES[name] for name in ("trains", rule)}
    monkeypatch.setattr("ctrbench.contract.check.FITTED_RULES", rules)
    found = of_estimator(tmp_path, **parts)[rule]
    assert not found.ok
    assert re.search(sentence, found.sentence)


def test_every_rule_of_estimators_has_been_made_to_fail() -> None:
    assert {rule for rule, _, _ in BROKEN_ESTIMATORS.values()} == set(FITTED_RULES)


def test_a_sound_estimator_passes(tmp_path: Path) -> None:
    found = of_estimator(tmp_path)
    assert [finding for finding in found.values() if not finding.ok] == []
    assert set(found) == set(FITTED_RULES)


def test_an_estimator_is_skipped_beside_other_backbones() -> None:
    (only,) = check("gbdt", backbones=["dcnv2"])
    assert (only.rule, only.ok) == ("supports", True)
    assert only.sentence == "skipped: has no backbone; it is run beside dnn alone"
