import pytest
from pydantic import ValidationError

from ctrbench.errors import SettingError
from ctrbench.synthetic.production.spec import SIZES, ProductionSpec, spec_for, spec_of_size


def test_named_sizes() -> None:
    sizes = {name: (spec.rows, spec.domains) for name, spec in SIZES.items()}
    assert sizes == {
        "200k": (200_000, 50),
        "2m": (2_000_000, 180),
        "20m": (20_000_000, 1_850),
        "200m": (200_000_000, 5_000),
        "full": (2_200_000_000, 5_000),
    }


@pytest.mark.parametrize("name", SIZES)
def test_spec_for_reproduces_the_named_sizes(name: str) -> None:
    assert spec_for(SIZES[name].rows) == SIZES[name]


@pytest.mark.parametrize("rows", [600_000, 3_000_000, 50_000_000, 10**10])
def test_domains_have_at_least_10800_rows_each(rows: int) -> None:
    assert rows / spec_for(rows).domains >= 10_800


def test_vocabularies_scale_with_the_rows() -> None:
    spec = spec_of_size("full")
    assert (spec.num_users, spec.num_items, spec.num_shops) == (11_000_000, 4_400_000, 220_000)
    assert (spec.num_categories, spec_of_size("2m").num_categories) == (2_000, 80)
    assert ProductionSpec(rows=10**6, domains=50, users=500, items=100).num_users == 500


def test_dev_and_test_begin_after_four_and_five_sixths() -> None:
    assert ProductionSpec(rows=6_000, domains=50).cuts == (4_000, 5_000)
    # Of 1,000 rows, row 666 is at day 3.999, row 667 at day 4.005, row 833 at day 5.001.
    assert ProductionSpec(rows=1_000, domains=50).cuts == (667, 833)
    assert ProductionSpec(rows=6_000, domains=50, days=12).cuts == (4_000, 5_000)


def test_specs_are_hashable_and_survive_json() -> None:
    spec = spec_of_size("20m")
    assert ProductionSpec.model_validate_json(spec.model_dump_json()) == spec
    assert len({spec, spec_of_size("20m"), spec.model_copy(update={"seed": 1})}) == 2


def test_unknown_size_is_refused() -> None:
    with pytest.raises(SettingError, match="200m"):
        spec_of_size("200n")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 10},
        {"days": 7},
        {"domains": 5_721},
        {"seed": 2**32},
        {"interaction": "linear"},
        {"rows_per_user": 9},
        {"rows_per_item": 100_001},
        {"click_rate": 0.0},
        {"null": "strict"},
        {"data_version": 1},
        {"colour": 1},
    ],
)
def test_invalid_specs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ProductionSpec.model_validate({"rows": 10_000, "domains": 50} | wrong)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(SettingError, match="between"):
        spec_for(999)


def test_number_of_users_is_limited_to_31_bits() -> None:
    with pytest.raises(ValidationError, match="must be below 2,147,483,648"):
        ProductionSpec(rows=10**11, domains=5_000, rows_per_user=10)
