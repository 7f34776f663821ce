from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.contract.check import Finding
from ctrbench.contract.rules import RULES

Check = Callable[..., dict[str, Finding]]

LEARNER = """
    def learner(self):
        return Own()
"""
TABLE = "self.table = domain_table(build.schema.num_indicators, torch.ones(num_inputs))"
OWN_ROWS = "return x * context.read(self.table)[context.routing.index_B]"

BROKEN = {
    "nan": (
        "finite training",
        "finite loss at every training step, but step 1",
        {"forward": "return x * float('nan')"},
    ),
    "exception": (
        "finite training",
        r"tried.py, line 31, in forward raised RuntimeError: mat1",
        {"forward": "return x @ torch.ones(3, 3)"},
    ),
    "exception in build": ("finite training", "in __init__ raised KeyError", {"init": "{}['weight']"}),
    "no plan": ("finite training", r"rewrite\(\) of a plug-in must return", {"edit": "None"}),
    "num_outputs lies": (
        "logits",
        r"shape \[40, 25\], and its num_outputs says \[40, 1\]",
        {"edit": "plan.add_logit(Part(name='p'))", "init": "self.num_outputs = 1"},
    ),
    "logit of two columns, one row short": (
        "logits",
        "score.. to return one finite number per row",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    def score(self, model, data):
                        return {name: scores[1:] for name, scores in super().score(model, data).items()}
            """,
        },
    ),
    "squeeze": ("batch of one", "expected", {"forward": "return x.squeeze()"}),
    "normalization of one row": (
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
    "moments of the batch": (
        "batch independence",
        "alone as in a batch",
        {"forward": "return x - x.mean(0)"},
    ),
    "rows that see each other": (
        "batch independence",
        "rows that attend to each other",
        {"forward": "return x + torch.softmax(x @ x.T, 1) @ x"},
    ),
    "noise": ("repeatable scores", "randomness", {"forward": "return x + 0.01 * torch.randn_like(x)"}),
    "annealed by forward": (
        "repeatable scores",
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
        "rows of absent domains in net.tower.1.table not to change",
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
        "but net.tower.1.spare, net.tower.3.spare never changed",
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
        "inputs unchanged",
        "domain_B",
        {"forward": "context.domain_B.clamp_(max=3)\nreturn x"},
    ),
    "embeddings in place": (
        "inputs unchanged",
        "z_BN",
        {"edit": "plan.with_input(Part(name='p'))", "forward": "return x.add_(1.0)"},
    ),
    "ids in place": (
        "inputs unchanged",
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
        "plan unchanged",
        "the plan given to rewrite",
        {"edit": "(object.__setattr__(plan, 'tower', plan.tower[:1]), plan)[1]"},
    ),
    "settings changed": (
        "plan unchanged",
        "the method's settings",
        {
            "of_method": "seen: list[int] = []\n",
            "edit": "(self.seen.append(len(self.seen)), plan)[1]",
        },
    ),
    "state outside the model": (
        "checkpoint",
        "restored model to score as the saved one",
        {
            "init": "self.alpha = 1.0",
            "forward": "self.alpha += 0.1 * self.training\nreturn x * self.alpha",
        },
    ),
    "state outside the learner's state_dict": (
        "checkpoint",
        "to resume bit for bit",
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
    "initial weights without the seed": (
        "seed",
        "net.tower.1.weight, net.tower.3.weight differ",
        {"init": "self.weight = nn.Parameter(torch.randn(num_inputs))", "forward": "return x * self.weight"},
    ),
    "noise without the seed": (
        "seed",
        "two trainings differ",
        {"forward": "return x * (1.0 + 0.1 * np.random.rand() * self.training)"},
    ),
    "a head that ends without a bias": (
        "base rate",
        r"change by -0.98.*changed by -?0.00; the head ends in PartModule, which has no output bias: end it with",
        {"edit": "plan.with_head(*plan.head, Part(name='p'))"},
    ),
    "no head": (
        "base rate",
        "end the plan's head with a stage that has an output bias",
        {"edit": "replace(plan, tower=(*plan.tower, *plan.head), head=())"},
    ),
    "a bias that is scaled afterwards": (
        "base rate",
        "changed by -0.49; add the output_bias of PartModule, which ends the head, to the logit as it is",
        {
            "edit": "plan.with_head(Part(name='p'))",
            "init": "self.num_outputs = 1\n"
            "self.bias = nn.Parameter(torch.zeros(1))\n"
            "self.weight = nn.Parameter(torch.ones(num_inputs, 1))",
            "forward": "return 0.5 * (x @ self.weight + self.bias)",
        },
    ),
    "not the backbone": (
        "initial logits",
        "starts_as_backbone",
        {"of_method": "starts_as_backbone = property(lambda self: 0.0)", "forward": "return 1.5 * x"},
    ),
    "relu on the logit": (
        "both signs",
        "a negative logit after training on labels 0 alone",
        {"edit": "plan.with_head(Dense(name='head', width=1, activation='relu'))"},
    ),
    "rows that are not there": (
        "epoch order",
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
        "epoch order",
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
    "order without the generator": (
        "epoch order",
        "on the given generator only",
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
    "misspelled on a module": (
        "declarations",
        "PartModule.refuse_workers to be a known attribute; did you mean 'refuses_workers'",
        {"init": "self.refuse_workers = 'it counts rows'"},
    ),
    "misspelled on a method": (
        "declarations",
        "Tried.start_as_backbone to be a known attribute",
        {"of_method": "start_as_backbone = property(lambda self: 0.0)"},
    ),
    "misspelled on a learner": (
        "declarations",
        "Own.refuses_worker to be a known attribute",
        {
            "of_method": LEARNER,
            "more": """
                class Own(Learner):
                    refuses_worker = "a reason"
            """,
        },
    ),
    "per-domain parameters without an index": (
        "declarations",
        "to declare indexed_by",
        {"init": TABLE, "forward": OWN_ROWS},
    ),
    "a table indexed by the other value": (
        "declarations",
        "indexed_by = 'domain' to agree with all domain tables, but net.tower.1.table has 8 rows in place of 22",
        {"of_method": "indexed_by = 'domain'", "init": TABLE, "forward": OWN_ROWS},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_can_fail(check_method: Check, case: str) -> None:
    rule, sentence, parts = BROKEN[case]
    finding = check_method(rules=("finite training", rule), **parts)[rule]
    assert not finding.ok
    assert re.search(sentence, finding.sentence)
    assert "\n" not in finding.sentence


def test_every_rule_has_a_method_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN.values()} == {rule.name for rule in RULES}


def test_rules_are_named_and_stated_once() -> None:
    assert len({rule.name for rule in RULES}) == len({rule.statement for rule in RULES}) == len(RULES)


def test_the_guide_lists_every_rule() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "own-method.md").read_text(encoding="utf-8")
    rows = [
        line
        for line in guide.splitlines()
        if line in {f"| {rule.name} | {rule.statement} |" for rule in RULES}
    ]
    assert rows == [f"| {rule.name} | {rule.statement} |" for rule in RULES]


def test_a_head_without_a_bias_breaks_no_other_rule(check_method: Check) -> None:
    findings = check_method(edit="plan.with_head(*plan.head, Part(name='p'))")
    assert [finding.rule for finding in findings.values() if not finding.ok] == ["base rate"]


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
    "a domain table": {"of_method": "indexed_by = 'indicator'", "init": TABLE, "forward": OWN_ROWS},
    "a private name close to a capability": {"init": "self._select = None", "forward": "return x"},
    "a penalty": {"forward": "context.penalties.append(0.1 * x.square().mean())\nreturn x"},
}


@pytest.mark.parametrize("case", SOUND)
def test_allowed_constructs_pass(check_method: Check, case: str) -> None:
    findings = check_method(**SOUND[case])
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert set(findings) == {rule.name for rule in RULES}
