"""Data-parallel training: launching the workers of one run, and checks that they compute the same model.

`nn.exchange` holds the messages that workers exchange. A launcher starts processes that find one another and calls
`function(workers, *arguments)` in each: `start_local` on this machine, `start_ray` with Ray Train on a cluster. At the
same global batch, several workers give the results of one up to rounding; a model that cannot is refused.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException, spawn

from ctrbench.errors import CtrbenchError, SettingError
from ctrbench.failures import describe_failure, is_failure, raised_signals, stop_code
from ctrbench.nn.capabilities import refused_workers
from ctrbench.nn.exchange import Workers
from ctrbench.storage.files import replacing
from ctrbench.train.learner import Learner, StepOutput

if TYPE_CHECKING:
    from ctrbench.nn.model import CTRModel
    from ctrbench.nn.optim import Optimizer

Result = TypeVar("Result")

# A failing run is told once, by its record; torch logs that it ends the other processes.
logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)

_RESULT, _ERROR = "result", "error"
"""Names of the files to which a process writes its result or its error."""
TIMEOUT = timedelta(minutes=30)
"""Longest time that a worker waits for the others, which may be reading data."""


class WorkerDied(RuntimeError):
    """A worker died, or lost the connection to one that did."""


class WorkerFailed(RuntimeError):
    """A worker raised an error itself, such as a plug-in's; a retry would raise the same error."""


def unsupported(model: CTRModel, learner: Learner) -> str | None:
    """Return the reason why several workers could not give the results of one, or None.

    A learner or a module that depends on the other rows of a batch, and cannot account for those of other workers,
    declares the reason in `refuses_workers`.
    """
    return learner.refuses_workers or refused_workers(model)


def check_supported(model: CTRModel, learner: Learner) -> None:
    """Raise `SettingError` if several workers could not give the results of one."""
    reason = unsupported(model, learner)
    if reason is not None:
        raise SettingError(
            "this method cannot be trained by several workers", value=reason, remedy="use --workers 1"
        )


def sum_over_workers(output: StepOutput, share: float, workers: Workers) -> StepOutput:
    """Return the output of a step over the rows of all workers, equal on each of them.

    `share` is this worker's share of the step's rows.
    """
    device, own_rows = workers.device, output.rows if share else 0
    means = torch.stack([output.loss, *output.logs.values()]).to(device, torch.float64) * share
    sums = workers.sum(torch.cat([means, means.new_tensor([own_rows])]))
    loss, *logs = sums[:-1].unbind()
    return StepOutput(loss=loss, rows=round(float(sums[-1])), logs=dict(zip(output.logs, logs, strict=True)))


def check_start(steps: int, workers: Workers) -> None:
    """Raise `SettingError` if the workers resume from different numbers of steps."""
    counts = workers.gather_integers([steps])[:, 0].tolist()
    if len(set(counts)) > 1:
        raise SettingError(
            "all workers must resume from the same checkpoint",
            value=f"steps made: {', '.join(map(str, counts))}",
            remedy="keep results in a folder or at a URL that all machines share",
        )


def check_replicas(optimizer: Optimizer, model: CTRModel, workers: Workers) -> None:
    """Raise `CtrbenchError` unless weights, buffers and moments are bit-identical on all workers."""
    state = dict(_gather_states(optimizer, model))
    sums_WC = workers.gather_integers([_checksum(value) for value in state.values()])
    is_same = (sums_WC == sums_WC[0]).all(0).tolist()
    differing = [name for name, same in zip(state, is_same, strict=True) if not same]
    if differing:
        raise CtrbenchError(
            "all workers must have the same model",
            value=f"{len(differing)} of {len(state)} tensors differ, such as {differing[0]}",
            remedy="a stage that depends on other rows of a batch must use context.team or declare refuses_workers",
        )


def _gather_states(optimizer: Optimizer, model: CTRModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.state_dict().items()
    for kind, values in optimizer.dense.state_dict().items():
        yield from ((f"{kind}.{index}", value) for index, value in enumerate(values))
    for table, rule in optimizer.tables.items():
        yield from ((f"{table}.{name}", value) for name, value in rule.state_dict().items())


def _checksum(value: torch.Tensor) -> int:
    return zlib.crc32(value.detach().cpu().contiguous().numpy().data)


def start_local(
    function: Callable[..., Result], size: int, *arguments: object, device: Literal["cpu", "cuda"] = "cpu"
) -> Result:
    """Call `function(workers, *arguments)` in `size` processes of this machine and return the first one's result.

    The function must be importable by a new process. With `cuda` each process gets its own GPU. Raises a
    `CtrbenchError` of a worker unchanged, `WorkerFailed` for any other error, and `WorkerDied`.
    """
    with TemporaryDirectory() as folder:
        call = (function, size, arguments, device, Path(folder))
        try:
            spawn(_run_process, call, nprocs=size)  # type: ignore[no-untyped-call]
        except ProcessException as problem:
            error = _failure_cause(problem, Path(folder))
            has_result = isinstance(problem, ProcessRaisedException) and (Path(folder) / _RESULT).exists()
            # Once the first worker has finished, the others may lose the connection to it.
            if not (has_result and isinstance(error, WorkerDied)):
                raise error from None
        result: Result = _read_pickle(Path(folder) / _RESULT)
    return result


def _failure_cause(problem: ProcessException, folder: Path) -> Exception:
    """Return the first error that a process left, or `WorkerDied`."""
    file = folder / _ERROR
    if isinstance(problem, ProcessRaisedException) and file.exists():
        error: Exception = _read_pickle(file)
        return error
    return WorkerDied(str(problem).strip().splitlines()[-1])


def _to_caller_error(error: BaseException) -> Exception:
    """Return the error that the caller gets: a user's error unchanged, the message of any other."""
    if isinstance(error, CtrbenchError):
        return error
    kind = WorkerDied if _is_lost_connection(error) else WorkerFailed
    return kind(describe_failure(error))


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether other workers have left an exchange; `torch.distributed` raises such an error itself."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    name = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, RuntimeError) and str(name).startswith("torch.distributed")


def _run_process(
    rank: int,
    function: Callable[..., object],
    size: int,
    arguments: tuple[object, ...],
    device: str,
    folder: Path,
) -> None:
    _use_loopback()
    own_device = _worker_device(device, rank)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=(folder / "meet").as_uri(),
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    try:
        # Python's own handler would not tell Ctrl-C from a plug-in's KeyboardInterrupt.
        with raised_signals((signal.SIGINT,)):
            _run_worker(Workers(rank=rank, size=size, device=own_device), function, arguments, folder)
    finally:
        distributed.destroy_process_group()


def _run_worker(
    workers: Workers, function: Callable[..., object], arguments: tuple[object, ...], folder: Path
) -> None:
    try:
        result = function(workers, *arguments)
        if workers.rank == 0:
            _write_pickle(result, folder / _RESULT)
    except BaseException as error:
        if not is_failure(error):
            raise SystemExit(stop_code(error)) from None
        # The first worker to fail has the cause; the exchanges of the others fail when the group is destroyed.
        if not (folder / _ERROR).exists():
            _write_pickle(_to_caller_error(error), folder / _ERROR)
        # Torch takes a process that ends with another kind of exception for one without an error.
        raise _to_caller_error(error) from error


def _use_loopback() -> None:
    """Let gloo connect through the loopback interface, independent of the machine's host name."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


def _worker_device(kind: str, rank: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def _write_pickle(value: object, file: Path) -> None:
    with replacing(file) as part:
        part.write_bytes(pickle.dumps(value))


def _read_pickle(file: Path) -> Any:  # noqa: ANN401  # any result of a worker
    return pickle.loads(file.read_bytes())


def start_ray(
    function: Callable[..., Result],
    size: int,
    *arguments: object,
    device: Literal["cpu", "cuda"] = "cpu",
    cpus: float = 1.0,
    retries: int = 3,
) -> Result:
    """Call `function` like `start_local`, with Ray Train, on the Ray cluster that this process is connected to.

    If a worker or its node dies, all workers start again, up to `retries` times, and resume from their checkpoint.
    Errors that a worker raised itself are not retried.
    """
    try:
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        remedy = 'pip install "ray[train]"'
        raise SettingError(
            "Ray Train must be installed for several workers per run on a cluster",
            value="not installed",
            remedy=remedy,
        ) from None

    def fit(folder: str) -> Any:  # noqa: ANN401  # any result of the first worker
        trainer = TorchTrainer(
            _run_ray_worker,  # type: ignore[arg-type]
            train_loop_config={"function": function, "arguments": arguments},
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=size, use_gpu=device == "cuda", resources_per_worker={"CPU": cpus}
            ),
            # Runs write their own checkpoints; Ray's files about the run are not needed afterwards.
            run_config=RunConfig(storage_path=folder),
        )
        return trainer.fit().return_value  # type: ignore[attr-defined]

    while True:
        try:
            with TemporaryDirectory() as folder:
                result: Result = fit(folder)
            return result
        except TrainingFailedError as problem:
            error = _failure_cause_on_ray(problem)
            if retries == 0 or not isinstance(error, WorkerDied):
                raise error from None
            retries -= 1


def _failure_cause_on_ray(problem: Exception) -> Exception:
    """Return the error that a worker raised itself, or `WorkerDied`."""
    errors: list[Exception] = list(getattr(problem, "worker_failures", {}).values())
    worker_errors = [error for error in errors if isinstance(error, CtrbenchError | WorkerFailed)]
    return (
        worker_errors[0] if worker_errors else WorkerDied(str((*errors, problem)[0]).strip().splitlines()[-1])
    )


def _run_ray_worker(call: dict[str, Any]) -> object:
    """Return the function's result; an error that it raises makes Ray stop the other workers."""
    from ray.train import get_context
    from ray.train.torch import get_device

    context = get_context()
    workers = Workers(rank=context.get_world_rank(), size=context.get_world_size(), device=get_device())
    try:
        return call["function"](workers, *call["arguments"])
    except BaseException as error:
        if not is_failure(error):
            raise
        raise _to_caller_error(error) from error
    finally:
        # The other workers must not wait for this one; Ray keeps its process until all have ended.
        if distributed.is_initialized():
            distributed.destroy_process_group()
