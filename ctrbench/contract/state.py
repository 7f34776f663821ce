"""Rules about state: inputs stay unchanged, and checkpoints and seeds determine all results."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from ctrbench.contract.case import Case, Training, changed_tensors
from ctrbench.contract.rows import (
    BATCH_ROWS,
    SEED,
    changed_columns,
    make_test_rows,
    make_training_rows,
)
from ctrbench.contract.rule import largest_difference, list_names, rule
from ctrbench.nn.model import CTRModel


@rule("inputs unchanged", "Training and scoring do not change the rows or their embeddings in place.")
def inputs_unchanged(case: Case) -> str | None:
    """Train on a batch and score, and compare the rows with new ones."""
    training, train, test = Training(case), make_training_rows(), make_test_rows()
    training.run([train.slice(0, BATCH_ROWS)])
    training.logits(test.slice(0, len(test)))
    changed = [*changed_columns(train, make_training_rows()), *changed_columns(test, make_test_rows())]
    context = training.model.eval().context(test.slice(0, len(test)))
    original = replace(context, z_BN=context.z_BN.detach().clone())
    with torch.no_grad():
        training.model.net(context)
    if not torch.equal(context.z_BN, original.z_BN):
        changed.append("z_BN")
    if changed:
        return (
            f"expected the inputs of a model to stay unchanged, but {list_names(changed)} changed; look for an "
            "in-place operation (add_, +=, clamp_)"
        )
    return None


@rule(
    "plan unchanged", "Rewriting and running a plan changes neither the plans nor the settings of the method."
)
def plan_unchanged(case: Case) -> str | None:
    """Rewrite a plan, build and run its model, and compare plans and settings with copies."""
    settings, base = case.method.model_dump(), case.plan()
    plan = case.method.apply(base)
    original = deepcopy(plan)
    CTRModel(plan, case.schema(), seed=SEED)(case.test.slice(0, len(case.test)))
    is_same = {
        "the plan given to rewrite()": base == case.plan(),
        "the rewritten plan": plan == original,
        "the method's settings": case.method.model_dump() == settings,
    }
    changed = [name for name, same in is_same.items() if not same]
    if changed:
        return (
            f"expected {list_names(changed)} to stay unchanged; a plan only describes, and state that changes belongs "
            "to the modules"
        )
    return None


@rule("checkpoint", "A restored model gives the same scores, and trains on bit for bit.")
def checkpoint(case: Case) -> str | None:
    """Restore a checkpoint of the middle of an epoch into a new model, score with it and train it to the end."""
    saved, restored = case.snapshot, Training(case)
    restored.load(saved.state)
    difference = largest_difference(restored.score(case.test), saved.scores)
    if difference > 0.0:
        return (
            f"expected a restored model to score as the saved one does, but logits differ by {difference:.1e}; "
            "some state that eval mode uses is neither a parameter nor a registered buffer"
        )
    torch.manual_seed(SEED)
    losses = restored.run(saved.batches)
    changed = changed_tensors(saved.end, restored.model.state_dict())
    if losses != saved.losses or changed:
        different = list_names(changed) if changed else "the loss"
        return (
            f"expected training to resume bit for bit after a restart, but {different} came out differently; "
            "keep all state in registered buffers, or in the learner's state_dict"
        )
    return None


@rule("seed", "The same seed gives the same initial weights and the same losses.")
def seed(case: Case) -> str | None:
    """Build and train again, with another global random state of torch in the build."""
    torch.manual_seed(SEED + 1)
    training = Training(case)
    differing = changed_tensors(case.trained.start, training.start)
    if differing:
        return (
            f"expected the same initial weights from the same seed, but {list_names(differing)} differ; draw "
            "random initial values from build.generator(label), not from torch's global state"
        )
    torch.manual_seed(SEED)
    losses = training.run(training.batches(case.train))
    if losses != case.trained.losses[: len(losses)]:
        return (
            "expected the same losses from the same seed, but two trainings differ; draw random numbers from "
            "build.generator, the learner's generator or torch's global state"
        )
    return None
