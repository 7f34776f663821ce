"""MAMDR against its loops computed in float64, and the weights that each loop may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import groupby, pairwise

import numpy as np
import pytest
import torch

from ctrbench.data.batches import Batch, Order, SplitData
from ctrbench.errors import SettingError
from ctrbench.eval.arrays import auc
from ctrbench.methods import mamdr
from ctrbench.methods.mamdr import PLAIN_STEPS, SHARED, SHARED_LOOP, Mamdr, MamdrLearner
from ctrbench.names import Column
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.stages import Dense
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner, score_rows

Model = Callable[..., CTRModel]
LR, BETA, GAMMA = 0.05, 0.3, 0.2


def numbers(domain: list[int], seed: int = 0) -> SplitData:
    """Rows of one numeric field, with opposite labels in odd and even domains, without embeddings."""
    generator, domains = np.random.default_rng(seed), torch.tensor(domain, dtype=torch.int32)
    x = generator.standard_normal(len(domain))
    chance = 1 / (1 + np.exp(-np.where(np.array(domain) % 2, 2.0, -2.0) * x))
    return SplitData(
        ids_BF=torch.zeros(len(x), 0, dtype=torch.int32),
        bags=(),
        numeric_BK=torch.from_numpy(x.astype(np.float32))[:, None],
        domain_B=domains,
        indicator_B=domains,
        label_B=torch.from_numpy((generator.random(len(x)) < chance).astype(np.float32)),
        row=np.arange(len(x)),
        user=None,
        probability=None,
    )


def logistic(num_domains: int) -> CTRModel:
    """The model σ(w x + b) from w = 1/2, b = 0."""
    schema = Schema(
        fields=(FieldShape(name="x", kind="numeric", role="other", size=0),),
        embedding_size=1,
        domain_features=("x",),
        num_domains=num_domains,
        indicator_rows=(0, *[12] * num_domains),
        base_rate=0.5,
    )
    model = CTRModel(Plan(tower=(), head=(Dense(name="head", width=1),)), schema, seed=1)
    torch.nn.init.constant_(model.net.head[0].get_parameter("weight"), 0.5)
    return model


def learner(**settings: object) -> MamdrLearner:
    made = Mamdr.model_validate(settings).learner()
    assert isinstance(made, MamdrLearner)
    return made


def train(
    made: Learner, model: CTRModel, data: SplitData, *, batch_size: int = 32, epochs: int = 1, lr: float = LR
) -> Optimizer:
    optimizer = Optimizer(model, AdamConfig(lr=lr))
    for epoch in range(epochs):
        order = made.order(data, batch_size=batch_size, generator=np.random.default_rng(epoch))
        for batch in data.batches(order):
            made.step(model, optimizer, batch)
    optimizer.flush()
    return optimizer


def theta(model: CTRModel) -> np.ndarray:
    head = model.net.head[0]
    return np.array([head.get_parameter("weight").item(), head.get_parameter("bias").item()])


class ByHand:
    """The loops, with first moments that restart in each visit and second moments that continue."""

    def __init__(self) -> None:
        self.shared, self.own = np.array([0.5, 0.0]), {p: np.zeros(2) for p in (1, 2)}
        self.square, self.steps = np.zeros(2), 0

    def visit(self, weights: np.ndarray, batches: Sequence[Batch]) -> np.ndarray:
        mean = np.zeros(2)
        for number, batch in enumerate(batches, start=1):
            x, y = batch.numeric_BK[:, 0].double().numpy(), batch.label_B.double().numpy()
            error = 1 / (1 + np.exp(-(weights[0] * x + weights[1]))) - y
            grad = np.array([(error * x).mean(), error.mean()])
            self.steps += 1
            mean, self.square = 0.9 * mean + 0.1 * grad, 0.999 * self.square + 0.001 * grad**2
            root = np.sqrt(self.square / (1 - 0.999**self.steps))
            weights = weights - LR * mean / (1 - 0.9**number) / (root + 1e-8)
        return weights

    def negotiate(self, *visits: Sequence[Batch]) -> None:
        moved = self.shared
        for batches in visits:
            moved = self.visit(moved, batches)
        self.shared = self.shared + BETA * (moved - self.shared)

    def regularise(self, domain: int, *visits: Sequence[Batch]) -> None:
        moved = self.own[domain]
        for batches in visits:
            moved = self.visit(self.shared + moved, batches) - self.shared
        self.own[domain] = self.own[domain] + GAMMA * (moved - self.own[domain])


TWO = numbers([1, 2] * 40)
"""Two rounds of ten visits, each of two batches of two rows: θ's loop, then two loops of the one and the other."""
SMALL = {"batches": 2, "outer_rate": BETA, "own_rate": GAMMA}


def visits_of(made: MamdrLearner) -> list[list[Batch]]:
    batches = list(TWO.batches(made.order(TWO, batch_size=2, generator=np.random.default_rng(0))))
    assert {len(batch) for batch in batches} == {2}
    return [list(two) for two in zip(batches[::2], batches[1::2], strict=True)]


def domain_of(visit: list[Batch]) -> int:
    (domain,) = {int(domain) for batch in visit for domain in batch.indicator_B}
    return domain


def two_domains() -> tuple[ByHand, CTRModel, MamdrLearner]:
    made, model, expected = learner(**SMALL), logistic(2), ByHand()
    visits, optimizer = visits_of(made), Optimizer(model, AdamConfig(lr=LR))
    assert len(visits) == 20
    for start in (0, 10):
        expected.negotiate(*visits[start : start + 2])
        for place in range(start + 2, start + 10, 2):
            before, own = visits[place : place + 2]
            expected.regularise(domain_of(own), before, own)
    for visit in visits:
        for batch in visit:
            made.step(model, optimizer, batch)
    return expected, model, made


def test_loops_move_shared_and_own_weights_by_the_formula() -> None:
    expected, model, made = two_domains()
    assert made.own_MP is not None
    assert min(np.abs(own).max() for own in expected.own.values()) > 0.01
    np.testing.assert_allclose(theta(model), expected.shared, rtol=1e-5)
    for domain, own in expected.own.items():
        np.testing.assert_allclose(made.own_MP[domain], own, rtol=1e-4, atol=1e-6)


def test_a_row_is_scored_with_shared_and_own_weights_and_the_unseen_domain_with_shared_ones() -> None:
    expected, model, made = two_domains()
    data = numbers([0, 1, 2, 2, 1, 0], seed=3)
    own = {0: np.zeros(2), **expected.own}
    x = data.numeric_BK[:, 0].double().numpy()
    weights = np.array([expected.shared + own[domain] for domain in data.indicator_B.tolist()])
    scores = made.score(model, data)
    np.testing.assert_allclose(scores[Column.SCORE], weights[:, 0] * x + weights[:, 1], rtol=1e-4)
    np.testing.assert_allclose(scores[SHARED], expected.shared[0] * x + expected.shared[1], rtol=1e-4)
    assert np.abs(scores[Column.SCORE] - scores[SHARED])[1:5].min() > 1e-3


def test_a_round_visits_each_domain_and_then_for_each_both_and_itself() -> None:
    visited = [domain_of(visit) for visit in visits_of(learner(**SMALL))]
    for one in (visited[:10], visited[10:]):
        assert set(one[:2]) == {1, 2}
        assert one[3::2] == [one[0], one[0], one[1], one[1]]
        assert set(one[2:6:2]) == set(one[6:10:2]) == {1, 2}


def test_negotiation_alone_has_no_own_weights_and_scores_with_shared_ones() -> None:
    made, model, expected = learner(regularisation=False, batches=2, outer_rate=BETA), logistic(2), ByHand()
    visits, optimizer = visits_of(made), Optimizer(model, AdamConfig(lr=LR))
    for first, second in zip(visits[::2], visits[1::2], strict=True):
        expected.negotiate(first, second)
        for batch in (*first, second[0]):
            made.step(model, optimizer, batch)
        before = theta(model)
        made.step(model, optimizer, second[1])
    np.testing.assert_allclose(theta(model), expected.shared, rtol=1e-5)
    assert not np.array_equal(before, theta(model))
    assert made.own_MP is None
    scores = made.score(model, TWO)
    assert set(scores) == {Column.SCORE}
    np.testing.assert_array_equal(scores[Column.SCORE], score_rows(model, TWO))


def loops(made: MamdrLearner, order: Order, data: SplitData) -> Iterator[tuple[int, list[list[int]]]]:
    """The owner of each loop, and the domains of each of its batches."""
    ends = (torch.nonzero(made.schedule[:, 2])[:, 0] + 1).tolist()
    batches = list(data.batches(order))
    assert ends[-1] == len(batches)
    for start, end in pairwise([0, *ends]):
        (owner,) = made.schedule[start:end, 0].unique().tolist()
        yield owner, [batch.indicator_B.unique().tolist() for batch in batches[start:end]]


def test_without_negotiation_shared_weights_take_ordinary_steps(build_model: Model, data: SplitData) -> None:
    made, (model, plain) = learner(negotiation=False), (build_model(), build_model())
    order = made.order(data, batch_size=32, generator=np.random.default_rng(0))
    owner, domains = next(loops(made, order, data))
    assert owner == PLAIN_STEPS
    assert max(len(one) for one in domains) > 1
    optimizers = [Optimizer(one, AdamConfig()) for one in (model, plain)]
    for _, batch in zip(domains, data.batches(order), strict=False):
        made.step(model, optimizers[0], batch)
        Learner().step(plain, optimizers[1], batch)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert made.own_MP is not None
    assert not made.own_MP.any()


def test_within_a_loop_the_model_holds_the_shared_weights_and_embeddings_move(
    build_model: Model, data: SplitData
) -> None:
    made, model = learner(), build_model()
    order = made.order(data, batch_size=32, generator=np.random.default_rng(0))
    optimizer = Optimizer(model, AdamConfig())
    before = {name: value.clone() for name, value in model.named_parameters()}
    made.step(model, optimizer, next(data.batches(order)))
    assert made.copy_P is not None
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) is (name != "embedding.table.weight"), name


def test_only_dense_weights_exist_per_domain(build_model: Model, data: SplitData) -> None:
    made, model = learner(), build_model("mamdr[aux=all,norm=pn]")
    train(made, model, data)
    counted = model.num_parameters()
    assert counted["per_domain"] > 0
    assert made.own_MP is not None
    assert made.own_MP.shape == (7, counted["dense"])


@pytest.mark.parametrize("settings", [{}, {"regularisation": False}, {"negotiation": False}, {"domains": 2}])
@pytest.mark.parametrize("repeats", [1, 20])
def test_an_epoch_processes_as_many_rows_as_there_are(
    data: SplitData, settings: dict[str, bool], repeats: int
) -> None:
    many, made = numbers(data.indicator_B.tolist() * repeats), learner(**settings)
    order = made.order(many, batch_size=16, generator=np.random.default_rng(0))
    sizes = np.diff(order.starts)
    assert order.starts[-1] == len(order.rows)
    assert 1 < sizes.min() <= sizes.max() <= 16
    ends = np.cumsum(sizes)[made.schedule[:, 2].numpy() == 1]
    own = np.diff(ends, prepend=0)[made.schedule[made.schedule[:, 2] == 1, 0].numpy() > 0]
    # The rest of the epoch is too short for another loop of a domain, or is a single row.
    assert 0 <= len(many) - len(order.rows) < own.max(initial=2)


def test_visits_are_bounded_and_loops_follow_the_definition(data: SplitData) -> None:
    many = numbers(data.indicator_B.tolist() * 40)
    made = learner(batches=3, domains=4, others=2)
    order = made.order(many, batch_size=8, generator=np.random.default_rng(0))
    rounds: list[tuple[list[int], list[tuple[int, list[int]]]]] = []
    for owner, batches in loops(made, order, many):
        visited = batches[::3]
        assert batches == [one for one in visited for _ in range(3)]
        domains = [domain for (domain,) in visited]
        if owner == SHARED_LOOP:
            rounds.append((domains, []))
        else:
            assert domains[1:] == [owner]
            rounds[-1][1].append((owner, domains[:1]))
    assert len(rounds) > 6
    assert {len(set(domains)) for domains, _ in rounds[:6]} == {4}
    in_order = [domain for domains, _ in rounds[:6] for domain in domains]
    for start in range(0, 24, 6):
        assert sorted(in_order[start : start + 6]) == [1, 2, 3, 4, 5, 6]
    assert len({tuple(domains) for domains, _ in rounds}) > 2
    for domains, own in rounds[:-1]:
        assert [owner for owner, _ in own] == [domain for domain in domains for _ in range(3)]
        for place, domain in enumerate(domains):
            before = {other for _, (other,) in own[3 * place : 3 * place + 3]}
            assert len(before) == 3
            assert domain in before


def test_others_are_drawn_evenly() -> None:
    many = numbers([1, 2, 3, 4, 5] * 3000)
    made = learner(batches=1, others=2)
    order = made.order(many, batch_size=4, generator=np.random.default_rng(0))
    drawn = [batches[0][0] for owner, batches in loops(made, order, many) if owner == 3]
    shares = np.bincount(drawn, minlength=6)[1:] / len(drawn)
    assert len(drawn) > 200
    np.testing.assert_allclose(shares, [1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6], atol=0.05)


def test_domains_without_a_loop_of_their_own_are_scored_with_shared_weights(data: SplitData) -> None:
    # City 6 has one row only.
    made, model = learner(), logistic(6)
    train(made, model, data=numbers(data.indicator_B.tolist()))
    assert made.own_MP is not None
    assert made.own_MP.any(1).tolist() == [False, *[True] * 5, False]
    rows = numbers([0, 6, 1])
    scores = made.score(model, rows)
    assert (scores[Column.SCORE] == scores[SHARED]).tolist() == [True, True, False]


def test_own_weights_of_domains_without_rows_stay_bit_equal(data: SplitData) -> None:
    many, model, made = numbers(data.indicator_B.tolist()), logistic(6), learner()
    optimizer = train(made, model, many)
    assert made.own_MP is not None
    before = made.own_MP.clone()
    few = numbers([1, 2] * 50)
    for batch in few.batches(made.order(few, batch_size=8, generator=np.random.default_rng(0))):
        made.step(model, optimizer, batch)
    moved = (made.own_MP != before).any(1).tolist()
    assert moved == [False, True, True, False, False, False, False]


def test_a_single_domain_regularizes_only_itself() -> None:
    made, model, many = learner(), logistic(1), numbers([1] * 40)
    order = made.order(many, batch_size=4, generator=np.random.default_rng(0))
    assert [(owner, len(batches)) for owner, batches in loops(made, order, many)] == [(0, 4), (1, 8)]
    train(made, model, many)
    scores = made.score(model, numbers([1, 0]))
    assert (scores[Column.SCORE] == scores[SHARED]).tolist() == [False, True]


def test_embeddings_take_ordinary_steps_in_every_visit(build_model: Model, data: SplitData) -> None:
    """With a tiny rate all gradients are those at the start, and moments are those of ordinary steps."""
    found, batches = [], []
    for made in (learner(), Learner()):
        model = build_model()
        optimizer = Optimizer(model, AdamConfig(lr=1e-20))
        if isinstance(made, MamdrLearner):
            order = made.order(data, batch_size=2, generator=np.random.default_rng(0))
            batches = list(data.batches(order))
        for batch in batches:
            made.step(model, optimizer, batch)
        optimizer.flush()
        assert optimizer.steps == len(batches)
        found.append((optimizer.tables["embedding.table"].packed, optimizer.dense))
    (table, dense), (plain_table, plain_dense) = found
    torch.testing.assert_close(table, plain_table)
    for name, are_equal in (("squares", True), ("counts", True), ("means", False)):
        one, other = (
            torch.cat([value.flatten() for value in getattr(side, name)]) for side in (dense, plain_dense)
        )
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-9) is are_equal, name
    assert dense.lr == 1e-20


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]"])
def test_a_domain_is_scored_by_the_backbone_with_its_weights_added(
    build_model: Model, data: SplitData, unseen_data: SplitData, backbone: str
) -> None:
    made, model = learner(), build_model("mamdr", backbone)
    train(made, model, data)
    assert made.own_MP is not None
    scores = made.score(model, unseen_data)
    for city in range(7):
        added, place = build_model("plain", backbone), 0
        added.load_state_dict(model.state_dict())
        for value in added.net.parameters():
            own = made.own_MP[city, place : place + value.numel()]
            value.data += own.view(value.shape)
            place += value.numel()
        assert place == made.own_MP.shape[1]
        rows = (unseen_data.indicator_B == city).numpy()
        assert rows.any()
        found = scores[Column.SCORE][rows]
        np.testing.assert_allclose(found, score_rows(added, unseen_data)[rows], rtol=1e-4, atol=1e-5)
        # City 6 has a single row and so no weights of its own.
        assert (np.abs(found - scores[SHARED][rows]) > 1e-4).all() == (0 < city < 6)


def parts_of(made: MamdrLearner, model: CTRModel, optimizer: Optimizer) -> dict[str, object]:
    return {"learner": made.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize("place", [0, 1, 7, 40, 79])
@pytest.mark.parametrize("draws_again", [True, False])
def test_a_restored_epoch_continues_bit_equal(
    build_model: Model, data: SplitData, place: int, draws_again: bool
) -> None:
    """Whether the order is drawn once more, as the training loop does, or not."""
    sides = []
    for _ in range(2):
        model = build_model("mamdr")
        sides.append((learner(), model, Optimizer(model, AdamConfig(lr=LR))))
    first, second = sides
    order = first[0].order(data, batch_size=2, generator=np.random.default_rng(0))
    batches, file = list(data.batches(order)), BytesIO()
    assert len(batches) > 79
    for batch in batches[:place]:
        first[0].step(*first[1:], batch)
    torch.save(parts_of(*first), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for part, name in ((second[1], "model"), (second[2], "optimizer"), (second[0], "learner")):
        part.load_state_dict(state[name])  # type: ignore[attr-defined]
    if draws_again:
        second[0].order(data, batch_size=2, generator=np.random.default_rng(0))
    for made, model, optimizer in sides:
        for batch in batches[place:]:
            made.step(model, optimizer, batch)
        optimizer.flush()
    for name, value in first[1].state_dict().items():
        assert torch.equal(value, second[1].state_dict()[name])
    scores = [made.score(model, data)[Column.SCORE] for made, model, _ in sides]
    np.testing.assert_array_equal(*scores)
    assert not np.array_equal(scores[0], score_rows(first[1], data))


def test_a_saved_state_does_not_change_with_training() -> None:
    made, model = learner(**SMALL), logistic(2)
    optimizer, batches = (
        Optimizer(model, AdamConfig()),
        [batch for visit in visits_of(made) for batch in visit],
    )
    for batch in batches[:9]:
        made.step(model, optimizer, batch)
    state = made.state_dict()
    kept = {name: state[name].clone() for name in ("copy", "own")}
    for batch in batches[9:]:
        made.step(model, optimizer, batch)
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert made.own_MP is not None
    assert not torch.equal(made.own_MP, kept["own"])


def test_a_new_epoch_drops_an_unfinished_loop() -> None:
    made, model = learner(**SMALL), logistic(2)
    optimizer = Optimizer(model, AdamConfig())
    for _ in range(2):
        visits = visits_of(made)
        assert (made.position, made.copy_P) == (0, None)
        made.step(model, optimizer, visits[0][0])
        assert made.position == 1


def test_a_batch_beyond_the_schedule_is_an_ordinary_step(build_model: Model, data: SplitData) -> None:
    model, plain, batch = build_model(), build_model(), data.slice(0, 32)
    learner().step(model, Optimizer(model, AdamConfig()), batch)
    Learner().step(plain, Optimizer(plain, AdamConfig()), batch)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def slopes(odd: float, even: float, rows: int, seed: int) -> SplitData:
    """Rows of all kinds of fields; how the price counts differs between odd and even cities, and age is liked."""
    generator = np.random.default_rng(seed)
    city, age = generator.integers(1, 7, rows), generator.integers(1, 4, rows)
    price = generator.standard_normal(rows)
    logit = np.where(city % 2, odd, even) * price + 1.5 * (age - 2)
    bag = (torch.ones(rows, dtype=torch.int32), torch.arange(rows + 1))
    ids = np.stack([city, age, generator.integers(1, 41, rows)], axis=1)
    return SplitData(
        ids_BF=torch.from_numpy(ids.astype(np.int32)),
        bags=(bag,),
        numeric_BK=torch.from_numpy(price.astype(np.float32))[:, None],
        domain_B=torch.from_numpy(((city - 1) * 3 + age).astype(np.int32)),
        indicator_B=torch.from_numpy(city.astype(np.int32)),
        label_B=torch.from_numpy((generator.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)),
        row=np.arange(rows),
        user=None,
        probability=None,
    )


def areas(build_model: Model, seed: int, odd: float, even: float) -> tuple[float, float, float]:
    """The AUC of plain training, of MAMDR as it is by default, and of its shared weights, after three epochs."""
    rows, test, found = slopes(odd, even, 6000, 1), slopes(odd, even, 4000, 2), []
    for name, made in (("plain", Learner()), ("mamdr", learner())):
        model = build_model(name, seed=seed)
        train(made, model, rows, batch_size=64, epochs=3, lr=0.01)
        found += [auc(test.label_B.numpy(), score) or 0.0 for score in made.score(model, test).values()]
    plain, own, shared = found
    assert plain > 0.85
    return plain, own, shared


@pytest.mark.parametrize("seed", [2, 4])
def test_defaults_learn_shared_effects_nearly_as_well_as_plain(build_model: Model, seed: int) -> None:
    """At equal rows, by 0.02 of AUC, shared weights too; with an outer rate of 0.1 these are 0.15 behind."""
    plain, own, shared = areas(build_model, seed, -2.0, -2.0)
    assert min(own, shared) > plain - 0.02


@pytest.mark.parametrize("seed", [1, 2])
def test_own_weights_learn_effects_of_single_domains(build_model: Model, seed: int) -> None:
    """At equal rows, by 0.04 of AUC as well as plain training; with an own rate of 0.1 this fails."""
    plain, own, shared = areas(build_model, seed, 3.0, -1.0)
    assert own > plain - 0.04
    assert own > shared + 0.05


def test_too_many_own_weights_are_refused(
    build_model: Model, data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model()
    size = model.num_parameters()["dense"]
    for most, is_refused in ((7 * size, False), (7 * size - 1, True)):
        monkeypatch.setattr(mamdr, "MOST_NUMBERS", most)
        made, optimizer = learner(), Optimizer(model, AdamConfig())
        if is_refused:
            with pytest.raises(SettingError, match="--indicator"):
                made.step(model, optimizer, data.slice(0, 8))
        else:
            made.step(model, optimizer, data.slice(0, 8))
        learner(regularisation=False).step(model, optimizer, data.slice(0, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("negotiation=false,regularisation=false", "use plain"),
        ("norm=bn", "moments"),
        ("negotiation=false,outer_rate=0.1", "outer_rate has no effect"),
        ("regularisation=false,others=3", "others has no effect"),
        ("regularisation=false,own_rate=0.1", "own_rate has no effect"),
    ],
)
def test_contradicting_settings_are_refused(settings: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        _ = select("methods", f"mamdr[{settings}]").value


def turns(made: MamdrLearner) -> list[int]:
    """The domains with loops of their own in an epoch, in order."""
    return [owner for owner, _ in groupby(made.schedule[:, 0].tolist()) if owner > 0]


@pytest.mark.parametrize("others", [2, 5])
def test_all_domains_get_a_turn_across_epochs(others: int) -> None:
    """Nine rounds of four go over 36 domains, but an epoch holds but a few and ends within one."""
    many, made, had = numbers(list(range(1, 37)) * 30), learner(domains=4, others=others, batches=1), []
    for epoch in range(12):
        made.order(many, batch_size=8, generator=np.random.default_rng(epoch))
        had += turns(made)
        assert len(turns(made)) < 20
    assert len(had) > 36
    for start in range(0, len(had) - 35, 36):
        assert sorted(had[start : start + 36]) == list(range(1, 37))


def test_without_own_weights_rounds_also_continue_across_epochs() -> None:
    """An epoch visits 127 times, all domains four times and some again, two of them in a round of five."""
    made, visited = learner(regularisation=False, domains=5, batches=1), []
    many = numbers([*range(1, 31)] * 2 + [1, 2, 3, 4, 5] * 38 + [1, 2] * 2)
    for epoch in range(6):
        order = made.order(many, batch_size=2, generator=np.random.default_rng(epoch))
        visited += [domain for _, batches in loops(made, order, many) for (domain,) in batches]
        assert len(visited) == 127 * (epoch + 1)
    for start in range(0, 750, 30):
        assert sorted(visited[start : start + 30]) == list(range(1, 31))


def test_a_restored_learner_draws_the_same_current_and_later_epochs() -> None:
    """Also where all of its steps are made, but the epoch is not over yet."""
    many = numbers([*range(1, 31)] * 40)
    for steps in (0, 3, None):
        made, other, model = learner(), learner(), logistic(30)
        optimizer = Optimizer(model, AdamConfig())
        for epoch in range(2):
            order = made.order(many, batch_size=64, generator=np.random.default_rng(epoch))
            for batch in list(many.batches(order))[: steps if epoch else None]:
                made.step(model, optimizer, batch)
        other.load_state_dict(made.state_dict())
        again = other.order(many, batch_size=64, generator=np.random.default_rng(1))
        np.testing.assert_array_equal(again.rows, order.rows)
        assert (other.position, other.waiting) == (made.position, made.waiting)
        for epoch in (2, 3):
            one, same = (
                side.order(many, batch_size=64, generator=np.random.default_rng(epoch))
                for side in (made, other)
            )
            np.testing.assert_array_equal(one.rows, same.rows)
            assert torch.equal(made.schedule, other.schedule)
        fresh = learner().order(many, batch_size=64, generator=np.random.default_rng(3))
        assert not np.array_equal(fresh.rows, one.rows)


def test_domains_without_own_weights_are_counted_for_the_record(data: SplitData) -> None:
    many, model, made = numbers([*range(1, 31)] * 40), logistic(30), learner()
    assert made.select(model, many, many) == {"domains_without_own_weights": 30}
    train(made, model, many)
    had = len(turns(made))
    assert 0 < had < 30
    assert made.select(model, many, many) == {"domains_without_own_weights": 30 - had}
    # City 6 has one row only.
    made, model = learner(), logistic(6)
    train(made, model, numbers(data.indicator_B.tolist()))
    assert made.select(model, data, data) == {"domains_without_own_weights": 1}
    assert learner(regularisation=False).select(model, data, data) == {}


def test_rows_of_the_unseen_domain_belong_to_no_domain() -> None:
    many, made, model = numbers([0, 1, 2] * 100), learner(), logistic(2)
    order = made.order(many, batch_size=8, generator=np.random.default_rng(0))
    assert not (many.indicator_B[torch.from_numpy(order.rows)] == 0).any()
    train(made, model, many, batch_size=8)
    assert made.own_MP is not None
    assert made.own_MP.any(1).tolist() == [False, True, True]
