"""The number of parallel runs that a machine can hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from ctrbench.data.card import FieldCard
from ctrbench.data.manifest import FieldInfo, ShardInfo, SplitInfo
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import SettingError
from ctrbench.names import Split
from ctrbench.runs.engines import capacity
from ctrbench.runs.grid import make_config

ROWS = 36_000


@pytest.fixture
def prepared(home: Path) -> Prepared:
    """Two one-id fields."""
    return open_prepared("tiny", home / "home")


def test_memory_counts_process_parameters_rows_and_activations(prepared: Prepared) -> None:
    config = make_config(batch_size=100, embedding_size=10)
    rows = ROWS * (2 * 4 + 32) * 2
    activations = 100 * 2 * 10 * 4 * 16
    assert capacity.run_memory(prepared, config, 1000) == (700 << 20) + 24_000 + rows + activations


def test_the_estimate_covers_what_a_streamed_run_took() -> None:
    """Three million generated rows, 25 fields, in shards of 2^20, and a window of 1000: the peak of its training."""
    rows, row, peak = (1 << 20) + 500_000 + 500_000, 25 * 4 + 32 + 2 * capacity.TRUTH_BYTES, 1.22e9
    assert peak < capacity.PROCESS_BYTES + rows * row * capacity.COPIES_STREAMED < 1.4 * peak


def test_rows_are_held_whole_without_a_window(prepared: Prepared) -> None:
    assert capacity.rows_held(prepared, make_config()) == ROWS


def with_shards(prepared: Prepared, sizes: tuple[int, ...]) -> Prepared:
    """Return the dataset as if each split had shards of these sizes."""
    shards = tuple(ShardInfo(file="", rows=rows, sha256="") for rows in sizes)
    split = SplitInfo(rows=sum(sizes), positives=0, shards=shards)
    manifest = prepared.manifest.model_copy(update={"splits": dict.fromkeys(Split, split)})
    return Prepared(prepared.root, manifest)


@pytest.mark.parametrize(
    ("window", "rows"), [(10, 1000), (1000, 1000), (1001, 2000), (2500, 3000), (9000, 3900)]
)
def test_shards_of_a_window_are_held_whole(prepared: Prepared, window: int, rows: int) -> None:
    sharded = with_shards(prepared, (1000, 1000, 1000, 900))
    assert capacity.rows_held(sharded, make_config(window=window)) == 3 * rows
    streamed, held = (capacity.run_memory(sharded, make_config(window=most), 0) for most in (9000, None))
    assert streamed - held == 3 * 3900 * (2 * 4 + 32)


def test_lists_are_as_long_as_the_card_allows_and_the_truth_is_counted(prepared: Prepared) -> None:
    card = prepared.manifest.card
    fields = (
        *card.fields,
        FieldCard(name="a", kind="sequence", max_length=50),
        FieldCard(name="b", kind="sequence"),
    )
    infos = (FieldInfo(name=name, kind="sequence", role="other", size=9) for name in "ab")
    update = {
        "card": card.model_copy(update={"fields": fields}),
        "fields": (*prepared.manifest.fields, *infos),
        "has_probability": True,
        "has_user_key": False,
        "generator": {"seed": 1},
    }
    listed = Prepared(prepared.root, prepared.manifest.model_copy(update=update))
    lists, truths = (50 + 8) * 4 + 2 * 8, 2 * 8
    assert capacity.row_bytes(listed) == capacity.row_bytes(prepared) + lists + truths


def test_the_estimate_covers_what_a_run_took() -> None:
    """MovieLens-1M, 7 fields, one epoch at two embedding sizes: peaks of two records."""
    row = 7 * 4 + 32
    for size, parameters, peak in ((16, 214_481, 742_744_064), (400, 5_110_097, 1_571_119_104)):
        activations = 4096 * 7 * size * 4 * capacity.ACTIVATION_COPIES
        data = 1_000_209 * row * capacity.COPIES_READ
        estimate = capacity.PROCESS_BYTES + parameters * capacity.PARAMETER_BYTES + data + activations
        assert peak < estimate < 1.4 * peak


def machine(
    monkeypatch: pytest.MonkeyPatch, *, cores: int, free: int | None, gpus: tuple[str, ...] = ()
) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: cores)
    monkeypatch.setattr(capacity, "available_memory", lambda: free)
    monkeypatch.setattr(capacity, "gpus", lambda: gpus)


def test_cores_are_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=8, free=100)
    assert capacity.find_capacity(make_config(threads=3)) == capacity.Capacity(jobs=2, limit="cores")


def test_memory_limits_what_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=8, free=100)
    assert capacity.find_capacity(make_config(), memory_per_run=30) == capacity.Capacity(
        jobs=3, limit="memory"
    )
    assert capacity.find_capacity(make_config(), memory_per_run=300).jobs == 1


def test_unknown_memory_limits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=8, free=None)
    assert capacity.find_capacity(make_config(), memory_per_run=300) == capacity.Capacity(
        jobs=8, limit="cores"
    )


def test_gpus_are_shared_by_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=64, free=100, gpus=("0", "1"))
    found = capacity.find_capacity(make_config(device="cuda"), gpus_per_run=0.3)
    assert found == capacity.Capacity(jobs=6, limit="GPUs", devices=("0", "1"))


def test_gpus_are_those_that_the_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert capacity.gpus() == ("3", "GPU-5f")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert capacity.gpus() == ()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_run_takes_one_gpu_at_most(share: float) -> None:
    with pytest.raises(SettingError, match="one GPU or a fraction of one"):
        capacity.resolve_gpus_per_run(make_config(device="cuda"), share)


def test_gpus_are_nothing_to_runs_on_the_cpu() -> None:
    assert capacity.resolve_gpus_per_run(make_config(), None) == 0.0
    with pytest.raises(SettingError, match="add --device cuda"):
        capacity.resolve_gpus_per_run(make_config(), 0.5)


def test_memory_of_the_machine_is_what_is_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   300 kB\n")
    assert capacity.free_of_machine(tmp_path / "meminfo") == 300 * 1024
    assert capacity.free_of_machine(tmp_path / "none") is None


def test_files_in_a_containers_memory_give_way(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\nactive_file 50\n")
    assert capacity.free_of_container(tmp_path) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity.free_of_container(tmp_path) is None


def test_the_memory_of_a_container_or_a_limit_counts_if_it_is_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   300 kB\n")
    total = partial(capacity.total_memory, tmp_path / "meminfo", tmp_path)
    monkeypatch.setattr(capacity, "_limit_of_process", lambda: None)
    assert total() == 900 * 1024
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5000\n")
    assert total() == 5000
    (tmp_path / "memory.max").write_text("4000\n")
    assert total() == 4000
    monkeypatch.setattr(capacity, "_limit_of_process", lambda: 3000)
    assert total() == 3000
