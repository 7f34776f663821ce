"""Prepared data, runs and reports in a bucket equal those on this machine to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.home import latest_prepared, prepared_names
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import open_prepared
from ctrbench.errors import DataError, StoreError
from ctrbench.names import Split
from ctrbench.report.write import report
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.checksummed import without_checksum
from ctrbench.storage.files import find_files, is_file, local_copy, parse_location, read_text, remove_file
from ctrbench.train import loop
from ctrbench.train.checkpoint import Checkpoint


@pytest.fixture
def here(store: RunStore) -> RunStore:
    return store


@pytest.fixture
def there(bucket: str) -> RunStore:
    return RunStore(results=parse_location(f"{bucket}/results"), home=parse_location(f"{bucket}/home"))


def runs_of(store: RunStore, *methods: str) -> list[Run]:
    return make_grid(
        open_prepared("tiny", store.home),
        methods=methods or ("plain",),
        backbones=["dnn[hidden=8-4]"],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(epochs=2, patience=9, batch_size=64, embedding_size=4),
    )


def run_of(store: RunStore) -> Run:
    (only,) = runs_of(store)
    return only


def inspected(store: RunStore, run: Run) -> dict[str, object]:
    """Return the arrays of a run's inspection; empty without one."""
    inspection = store.inspection(run.key)
    return {} if inspection is None else {name: array.tolist() for name, array in inspection.arrays().items()}


def predictions(store: RunStore, run: Run) -> bytes:
    with local_copy(store.predictions_file(run.key)) as path:
        return path.read_bytes()


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an empty cache from here on, as another machine would."""
    monkeypatch.setenv("CTRBENCH_CACHE", str(tmp_path / "another"))


def test_prepared_data_are_the_same_in_remote_storage(
    card: DatasetCard, here: RunStore, there: RunStore, tmp_path: Path
) -> None:
    near, far = prepare(card, home=here.home), prepare(card, home=there.home)
    same = {"created": "", "files": ""}
    assert near.manifest.model_copy(update=same) == far.manifest.model_copy(update=same)
    for split in Split:
        assert near.read(split).equals(far.read(split))
    assert (prepared_names(there.home), latest_prepared(there.home)) == (["tiny"], "tiny")
    assert not list((tmp_path / "cache" / "datasets").iterdir()), "nothing half made is left here"


def test_unchanged_data_are_not_prepared_again(card: DatasetCard, there: RunStore) -> None:
    heard: list[str] = []
    prepare(card, home=there.home)
    prepare(card, home=there.home, progress=lambda phase, _: heard.append(phase))
    assert "write" not in heard
    prepare(card, home=there.home, progress=lambda phase, _: heard.append(phase), force=True)
    assert "write" in heard


def test_a_domain_set_is_added_in_remote_storage(card: DatasetCard, there: RunStore) -> None:
    prepared, name = prepare(card, home=there.home).ensure_domains(("item",))
    assert open_prepared("tiny", there.home).domain_set(name).num_domains == 30
    assert prepared.domain_table(name).height == 31


def test_the_error_for_a_missing_shard_names_it(card: DatasetCard, there: RunStore) -> None:
    prepared = prepare(card, home=there.home)
    file = prepared.manifest.splits[Split.DEV].shards[0].file
    remove_file(prepared.folder / file)
    for look in (prepared.verify, lambda: prepared.read(Split.DEV)):
        with pytest.raises(DataError, match=rf"missing: (s3|gs)://.*{file}.*ctrbench prepare"):
            look()


def test_the_error_for_a_damaged_shard_names_it(card: DatasetCard, there: RunStore) -> None:
    prepared = prepare(card, home=there.home)
    train, dev = (prepared.manifest.splits[split].shards[0].file for split in (Split.TRAIN, Split.DEV))
    with local_copy(prepared.folder / train) as path:
        (prepared.folder / dev).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=rf"damaged: (s3|gs)://.*{dev}"):
        prepared.read(Split.DEV)


def test_runs_and_report_are_the_same_in_remote_storage(
    card: DatasetCard, here: RunStore, there: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in (here, there):
        prepare(card, home=store.home)
        for run in runs_of(store, "plain", "adasparse"):
            assert execute(run, store).error is None
    another_machine(monkeypatch, tmp_path)
    for run in runs_of(there, "plain", "adasparse"):
        near, far = here.find(run.key), there.find(run.key)
        assert near is not None
        assert far is not None
        assert near.reproducible() == far.reproducible()
        assert predictions(here, run) == predictions(there, run)
        assert inspected(here, run) == inspected(there, run)
    assert there.unfinished(runs_of(there, "plain", "adasparse")) == []
    for store, name in ((here, "near"), (there, "far")):
        report(store, dataset="tiny", bins=3, out=tmp_path / name)
    for file in ("bins.csv", "bins.md", "gain-auc.svg"):
        assert (tmp_path / "near" / file).read_bytes() == (tmp_path / "far" / file).read_bytes()


def kill(run: Run, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run, after a checkpoint at each of two steps, where it leaves nothing more behind."""
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 0.0)
    heard: list[object] = []

    def stop(tick: object) -> None:
        heard.append(tick)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, store, progress=stop, checkpoint_seconds=0.0)


def test_a_killed_run_is_resumed_on_another_machine(
    card: DatasetCard, here: RunStore, there: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in (here, there):
        prepare(card, home=store.home)
    run, checkpoint = run_of(there), there.folder(run_of(there).key) / "checkpoint.pt"
    whole = execute(run, here)
    kill(run, there, monkeypatch)
    another_machine(monkeypatch, tmp_path)
    assert Checkpoint(checkpoint, run.key.digest).load() is not None
    again = execute(run, there)
    assert (again.status, again.measured.resumed) == ("finished", 1)
    assert again.reproducible() == whole.reproducible()
    assert predictions(there, run) == predictions(here, run)
    assert not is_file(checkpoint)


def test_an_unreachable_checkpoint_does_not_restart_training(
    there: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(there.home, Path)

    def cut(*_: object) -> None:
        raise TimeoutError("cut")

    monkeypatch.setattr(there.home.fs, "get_file", cut)
    with pytest.raises(StoreError, match="cut"):
        Checkpoint(there.home / "checkpoint.pt").load()


def test_a_finished_record_is_never_overwritten(card: DatasetCard, there: RunStore) -> None:
    prepare(card, home=there.home)
    run = run_of(there)
    execute(run, there)
    record = there.find(run.key)
    assert record is not None
    with pytest.raises(StoreError, match=r"must not be overwritten: (s3|gs)://.*delete it first"):
        there.write(record)
    (before,) = find_files(there.results, "tiny/*.json")
    assert len(list(there.records())) == 1
    assert RunRecord.model_validate(without_checksum(json.loads(read_text(before)))) == record


@pytest.mark.parametrize("where", ["tmp_path", "s3_bucket"])
def test_of_two_simultaneous_writers_of_a_record_one_succeeds(
    card: DatasetCard, request: pytest.FixtureRequest, here: RunStore, where: str
) -> None:
    prepare(card, home=here.home)
    made = execute(run_of(here), replace(here, results=here.home / "elsewhere"))
    store = replace(here, results=parse_location(request.getfixturevalue(where)) / "results")
    tries = [
        made.model_copy(update={"code": made.code.model_copy(update={"version": str(n)})}) for n in range(8)
    ]

    def bring(record: RunRecord) -> bool:
        try:
            store.write(record)
        except StoreError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(bring, tries))
    assert sum(won) == 1
    assert store.find(made.key) == tries[won.index(True)]


def test_a_retry_after_a_lost_response_succeeds(
    card: DatasetCard, here: RunStore, there: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(card, home=here.home)
    record = execute(run_of(here), here)
    assert not isinstance(there.results, Path)
    put = there.results.fs.put_file

    def put_twice(*args: object, **options: object) -> None:
        put(*args, **options)
        put(*args, **options)

    monkeypatch.setattr(there.results.fs, "put_file", put_twice)
    there.write(record)
    assert there.find(record.key) == record


@pytest.mark.usefixtures("card")
def test_the_command_line_works_with_remote_storage(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrbench: Callable[..., int]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTRBENCH_HOME", f"{bucket}/home")
    results = f"{bucket}/results"
    for command in (
        "prepare tiny.toml",
        f"run --epochs 1 --backbone dnn[hidden=4] --jobs 1 --results {results}",
        f"report --bins 3 --results {results} --out report",
    ):
        assert ctrbench(*command.split()) == 0
    assert len(find_files(parse_location(results), "tiny/*.json")) == 1
    assert (tmp_path / "report" / "index.html").exists()


def test_a_wrong_bucket_gives_an_error_of_one_line(
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    ctrbench: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", f"{bucket[:5]}none-{bucket[-6:]}/home")
    assert ctrbench("run", "--dataset", "tiny") == 2
    assert "name an existing bucket" in capsys.readouterr().err
