"""Features of the trees, counted row by row, and the number of trees that dev selects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods import gbdt as module
from ctrbench.methods.gbdt import Features, FittedTrees, Gbdt, earlier
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select

KAPPA = 5.0


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the 41 ids of users be too many for a category."""
    monkeypatch.setattr(module, "MOST_CATEGORIES", 40)


def fit(schema: Schema, train: SplitData, dev: SplitData, **settings: float) -> FittedTrees:
    fitted = Gbdt(**settings).fit(train, dev, schema=schema, seed=1)  # type: ignore[arg-type]
    assert isinstance(fitted, FittedTrees)
    return fitted


def tags_of(data: SplitData, row: int) -> list[int]:
    values, offsets = data.bags[0]
    return values[offsets[row] : offsets[row + 1]].tolist()  # type: ignore[no-any-return]


def by_hand(data: SplitData, train: SplitData, *, is_training: bool) -> np.ndarray:
    """City and age, user as count and rate, tags as length and mean rate, price; computed by loops."""
    rate = float(train.label_B.mean())
    rows = []
    for row in range(len(data)):
        until = row if is_training else len(train)
        city, age, user = data.ids_BF[row].tolist()
        same = [train.label_B[one].item() for one in range(until) if train.ids_BF[one, 2] == user]
        total = sum(int(one) == user for one in train.ids_BF[:, 2])
        rates = []
        for tag in tags_of(data, row):
            seen = [
                train.label_B[one].item()
                for one in range(until)
                for other in tags_of(train, one)
                if other == tag
            ]
            rates.append((sum(seen) + KAPPA * rate) / (len(seen) + KAPPA))
        smoothed = (sum(same) + KAPPA * rate) / (len(same) + KAPPA)
        mean = sum(rates) / len(rates) if rates else np.nan
        rows.append([city, age, total, smoothed, len(rates), mean, data.numeric_BK[row, 0].item()])
    return np.array(rows)


@pytest.mark.usefixtures("wide")
def test_features_of_a_training_row_come_from_the_rows_before_it(schema: Schema, data: SplitData) -> None:
    train = first_rows(data, 120)
    expected = by_hand(train, train, is_training=True)
    # The count covers all training rows: it depends on no label.
    np.testing.assert_allclose(Features(schema, train, KAPPA).of_training(train), expected)


@pytest.mark.usefixtures("wide")
def test_features_of_a_scored_row_come_from_all_training_rows(
    schema: Schema, data: SplitData, unseen_data: SplitData
) -> None:
    train = first_rows(data, 120)
    expected = by_hand(unseen_data, train, is_training=False)
    np.testing.assert_allclose(Features(schema, train, KAPPA).of(unseen_data), expected)
    assert np.isnan(expected[:, 5]).any()


def first_rows(data: SplitData, count: int) -> SplitData:
    part = data.slice(0, count)
    content = {name: value for name, value in vars(part).items() if name not in ("weight", "share")}
    return SplitData(**content, row=data.row[:count], user=None, probability=None)


@pytest.mark.usefixtures("wide")
def test_the_label_of_a_row_is_not_part_of_its_features(schema: Schema, data: SplitData) -> None:
    row, label_B = 100, data.label_B.clone()
    label_B[row] = 1.0 - label_B[row]
    before = Features(schema, data, KAPPA)
    after = Features(schema, replace(data, label_B=label_B), KAPPA)
    after.rate = before.rate  # the click rate of all rows, a part of every smoothed rate
    columns = (before.of_training(data), after.of_training(replace(data, label_B=label_B)))
    np.testing.assert_array_equal(columns[0][: row + 1], columns[1][: row + 1])
    assert not np.array_equal(columns[0][row + 1 :], columns[1][row + 1 :], equal_nan=True)


def test_a_repeated_value_does_not_reveal_the_label_of_its_row() -> None:
    ids, rows = np.array([7, 7, 3, 7, 7, 3]), np.array([0, 0, 0, 2, 2, 5])
    before, clicked = earlier(ids, rows, np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0]))
    assert before.tolist() == [0, 0, 0, 2, 2, 1]
    assert clicked.tolist() == [0, 0, 0, 2, 2, 1]


def test_trees_learn_nothing_from_ids_of_few_rows_with_random_labels() -> None:
    """A leak would show here: thousands of ids of two rows each, and random labels."""
    generator, rows = np.random.default_rng(0), 4000
    schema = Schema(
        fields=(FieldShape(name="user", kind="categorical", role="user", size=rows // 2 + 1),),
        embedding_size=4,
        domain_features=("user",),
        num_domains=1,
        indicator_rows=(0, rows),
        base_rate=0.5,
    )
    ids = generator.permutation(np.repeat(np.arange(1, rows // 2 + 1), 2)).astype(np.int32)[:, None]
    ones = torch.ones(rows, dtype=torch.int64)
    train = SplitData(
        ids_BF=torch.from_numpy(ids), bags=(), numeric_BK=torch.zeros(rows, 0), domain_B=ones, indicator_B=ones,
        label_B=torch.from_numpy(generator.integers(0, 2, rows).astype(np.float32)), row=np.arange(rows),
        user=None, probability=None,
    )  # fmt: skip
    features, label = Features(schema, train, KAPPA), train.label_B.numpy()

    def telling(rate_B: np.ndarray) -> float:
        return max(abs(label[rate_B == rate].mean() - 0.5) for rate in np.unique(rate_B))

    assert telling(features.of_training(train)[:, 1]) < 0.06
    assert telling(features.of(train)[:, 1]) > 0.4  # leaked by rates of all rows
    assert fit(schema, train, train, max_trees=20).loss > 0.68


def test_buckets_keep_their_order_and_the_unseen_one_is_missing(data: SplitData, schema: Schema) -> None:
    city = replace(schema.fields[0], kind="numeric")
    bucketed = replace(schema, fields=(city, *schema.fields[1:]))
    data.ids_BF[3, 0] = 0
    features = Features(bucketed, data, KAPPA)
    assert features.is_category.tolist() == [False, True, True, False, False, False]
    column = features.of(data)[:, 0]
    assert np.isnan(column[3])
    assert column[4] == data.ids_BF[4, 0]


@pytest.mark.parametrize(("size", "is_category"), [(255, True), (256, False)])
def test_ids_beyond_the_limit_of_trees_are_counted(
    schema: Schema, data: SplitData, size: int, is_category: bool
) -> None:
    user = replace(schema.fields[4], size=size)
    widened = replace(schema, fields=(*schema.fields[:4], user))
    data.ids_BF[:, 2] = torch.arange(len(data)) % (size - 1) + 1
    features = Features(widened, data, KAPPA)
    assert len(features.is_category) == (6 if is_category else 7)
    assert features.is_category[2] == is_category
    fitted = Gbdt(max_trees=3).fit(data, data, schema=widened, seed=1)
    assert np.isfinite(fitted.logits(data)).all()


def clicks(data: SplitData, seed: int) -> SplitData:
    """Labels that mostly follow the price."""
    chance = 1.0 / (1.0 + np.exp(-3.0 * data.numeric_BK[:, 0].numpy()))
    label = np.random.default_rng(seed).random(len(data)) < chance
    return replace(data, label_B=torch.from_numpy(label.astype(np.float32)))


def test_dev_chooses_the_number_of_trees(schema: Schema, data: SplitData, unseen_data: SplitData) -> None:
    train, dev = clicks(data, 1), clicks(unseen_data, 2)
    fitted = fit(schema, train, dev, max_trees=30)
    assert fitted.trees is not None
    stages = list(fitted.trees.staged_decision_function(fitted.features.of(dev)))
    areas = [roc_auc_score(dev.label_B, stage) for stage in stages]
    assert len(areas) == 30
    assert fitted.steps == int(np.argmax(areas)) + 1
    assert 1 < fitted.steps < 30
    assert fitted.notes == {"trees": fitted.steps}
    np.testing.assert_allclose(fitted.logits(dev), stages[fitted.steps - 1].ravel(), rtol=1e-6)


def test_trees_find_the_signal(schema: Schema, data: SplitData) -> None:
    fitted = fit(schema, clicks(data, 1), clicks(data, 2), max_trees=30)
    assert roc_auc_score(clicks(data, 3).label_B, fitted.logits(data)) > 0.85


def test_the_loss_is_that_of_the_training_features(schema: Schema, data: SplitData) -> None:
    fitted = fit(schema, clicks(data, 1), clicks(data, 2), max_trees=5)
    logits = fitted.logits(data)  # no field is wide, and rates of lists differ little
    assert fitted.loss == pytest.approx(
        log_loss(clicks(data, 1).label_B, 1 / (1 + np.exp(-logits))), abs=0.02
    )


def test_leaves_are_the_parameters(schema: Schema, data: SplitData) -> None:
    fitted = fit(schema, clicks(data, 1), clicks(data, 2), max_trees=4, leaves=2)
    assert fitted.num_parameters == 2 * fitted.steps


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_gives_a_constant(schema: Schema, data: SplitData, label: float) -> None:
    one = replace(data, label_B=torch.full_like(data.label_B, label))
    fitted = fit(schema, one, data)
    assert (fitted.steps, fitted.num_parameters) == (0, 0)
    assert np.unique(fitted.logits(data)).tolist() == pytest.approx([27.63 * label - 13.815], abs=0.01)


def test_a_dev_split_of_one_class_selects_by_log_loss(
    schema: Schema, data: SplitData, unseen_data: SplitData
) -> None:
    # Without rows of high prices trees predict no clicks, except between the groups.
    rows = torch.nonzero(unseen_data.numeric_BK[:, 0] < 0.8)[:, 0]
    content = vars(unseen_data.take(rows)).items()
    some = {name: value for name, value in content if name not in ("weight", "share")}
    dev = SplitData(**some, row=rows.numpy(), user=None, probability=None)
    dev = replace(dev, label_B=torch.zeros(len(rows)))
    fitted = fit(schema, clicks(data, 1), dev, max_trees=30)
    assert fitted.trees is not None
    stages = fitted.trees.staged_decision_function(fitted.features.of(dev))
    losses = [log_loss(dev.label_B, 1 / (1 + np.exp(-stage.ravel())), labels=[0, 1]) for stage in stages]
    assert len(losses) == 30
    assert fitted.steps == int(np.argmin(losses)) + 1
    assert 1 < fitted.steps < 30


def test_the_estimator_runs_on_dnn_only() -> None:
    assert Gbdt().supports(Dnn().plan()) is None
    assert Gbdt().supports(Dcnv2().plan()) == "has no backbone and runs on dnn only"
    assert Gbdt().supports(replace(Dnn().plan(), first_order=True)) is not None
    with pytest.raises(SettingError, match="must have a plan to be explained: gbdt"):
        Gbdt().apply(Dnn().plan())


@pytest.mark.parametrize("setting", ["norm=bn", "aux=all"])
def test_parts_of_a_plan_are_refused(setting: str) -> None:
    with pytest.raises(SettingError, match="does not apply: an estimator"):
        _ = select("methods", f"gbdt[{setting}]").value
