"""One run made by many workers: starting them, what they refuse, and how they find out that they have drifted apart.

What they exchange stands in `nn.exchange`. A launcher starts processes that find one another and calls
`function(workers, *arguments)` in each: `start_local` on this machine, `start_ray` by Ray Train on a cluster. Many
workers give the numbers of one at the same global batch, up to rounding; what could not is refused.
"""

from __future__ import annotations

import os
import pickle
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
from ctrbench.nn.exchange import Workers
from ctrbench.storage.files import replacing
from ctrbench.train.learner import Learner, StepOutput

if TYPE_CHECKING:
    from ctrbench.nn.model import CTRModel
    from ctrbench.nn.optim import Optimizer

Result = TypeVar("Result")

_RESULT, _ERROR = "result", "error"
"""Names of the files in which a process leaves what came of it."""
PATIENCE = timedelta(minutes=30)
"""How long a worker waits for the others, who may be reading data."""


class WorkerDied(RuntimeError):
    """A worker died, or lost touch with one that did."""


class WorkerFailed(RuntimeError):
    """What a worker raised itself, such as a plug-in's error; it would raise the same again."""


def unsupported(model: CTRModel, learner: Learner) -> str | None:
    """Return why many workers could not give the numbers of one, or None.

    A module that looks at other rows of a batch, and cannot reckon with those of other workers, says why in an
    attribute `refuses_workers`.
    """
    if type(learner).step is not Learner.step:
        return f"{type(learner).__name__} makes steps of its own, which know of no other workers"
    reasons = (getattr(module, "refuses_workers", None) for module in model.modules())
    return next((reason for reason in reasons if reason), None)


def check_supported(model: CTRModel, learner: Learner) -> None:
    """Refuse to train with many workers what could not give the numbers of one."""
    reason = unsupported(model, learner)
    if reason is not None:
        raise SettingError(
            "many workers must give the numbers of one", value=reason, remedy="train it with one worker"
        )


def joined(output: StepOutput, share: float, workers: Workers) -> StepOutput:
    """Return what a step reports of the rows of all workers, the same to each of them."""
    device, own_rows = workers.device, output.rows if share else 0
    means = torch.stack([output.loss, *output.logs.values()]).to(device, torch.float64) * share
    found = workers.sum(torch.cat([means, means.new_tensor([own_rows])]))
    loss, *logs = found[:-1].unbind()
    return StepOutput(loss=loss, rows=round(float(found[-1])), logs=dict(zip(output.logs, logs, strict=True)))


def check_start(steps: int, workers: Workers) -> None:
    """Raise an error if the workers have not made the same number of steps, before they go on together."""
    made = workers.table([steps])[:, 0].tolist()
    if len(set(made)) > 1:
        raise SettingError(
            "all workers must go on from the same checkpoint",
            value=f"steps made: {', '.join(map(str, made))}",
            remedy="keep results where all machines see them, in a shared folder or at a URL",
        )


def check_replicas(optimizer: Optimizer, model: CTRModel, workers: Workers) -> None:
    """Raise an error if weights, buffers or moments are not the same for all workers, bit for bit."""
    state = dict(_state(optimizer, model))
    sums_WC = workers.table([_checksum(value) for value in state.values()])
    is_same = (sums_WC == sums_WC[0]).all(0).tolist()
    apart = [name for name, same in zip(state, is_same, strict=True) if not same]
    if apart:
        raise CtrbenchError(
            "all workers must have the same model",
            value=f"{len(apart)} of {len(state)} tensors are not the same, such as {apart[0]}",
            remedy="what looks at other rows of a batch must ask context.team, or say why not in refuses_workers",
        )


def _state(optimizer: Optimizer, model: CTRModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.state_dict().items()
    for kind, values in optimizer.dense.state_dict().items():
        yield from ((f"{kind}.{place}", value) for place, value in enumerate(values))
    for table, rule in optimizer.tables.items():
        yield from ((f"{table}.{name}", value) for name, value in rule.state_dict().items())


def _checksum(value: torch.Tensor) -> int:
    return zlib.crc32(value.detach().cpu().contiguous().numpy().data)


def start_local(
    function: Callable[..., Result], size: int, *arguments: object, device: Literal["cpu", "cuda"] = "cpu"
) -> Result:
    """Call `function(workers, *arguments)` in so many processes of this machine; return the first one's result.

    The function is one that a new process can import. With `cuda` each process has a GPU of its own. Raises a user's
    error as it is, `WorkerFailed` for any other, and `WorkerDied`.
    """
    with TemporaryDirectory() as folder:
        call = (function, size, arguments, device, Path(folder))
        try:
            spawn(_work, call, nprocs=size)  # type: ignore[no-untyped-call]
        except ProcessException as problem:
            error = _cause(problem, Path(folder))
            has_ended = isinstance(problem, ProcessRaisedException) and (Path(folder) / _RESULT).exists()
            # Others lose touch with the first worker, too, where it has ended in its own way.
            if not (has_ended and isinstance(error, WorkerDied)):
                raise error from None
        result: Result = _read(Path(folder) / _RESULT)
    return result


def _cause(problem: ProcessException, folder: Path) -> Exception:
    """Return what ended the processes: the first error that one of them left, or a death."""
    file = folder / _ERROR
    if isinstance(problem, ProcessRaisedException) and file.exists():
        error: Exception = _read(file)
        return error
    return WorkerDied(str(problem).strip().splitlines()[-1])


def _told(error: Exception) -> Exception:
    """Return an error as it goes to the caller: a user's as it is, the words of any other."""
    if isinstance(error, CtrbenchError):
        return error
    kind = WorkerDied if _lost_touch(error) else WorkerFailed
    return kind(f"{type(error).__name__}: {error}".strip())


def _lost_touch(error: Exception) -> bool:
    """Tell the error of an exchange that others have left: torch raises it from within."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    name = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, RuntimeError) and str(name).startswith("torch.distributed")


def _work(
    rank: int,
    function: Callable[..., object],
    size: int,
    arguments: tuple[object, ...],
    device: str,
    folder: Path,
) -> None:
    _use_loopback()
    place = _device(device, rank)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=(folder / "meet").as_uri(),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        result = function(Workers(rank=rank, size=size, device=place), *arguments)
        if rank == 0:
            _write(result, folder / _RESULT)
    except Exception as error:
        # The first to fail says why; with the group, the others' exchanges end only afterwards.
        if not (folder / _ERROR).exists():
            _write(_told(error), folder / _ERROR)
        raise
    finally:
        distributed.destroy_process_group()


def _use_loopback() -> None:
    """Let gloo meet on this machine, whatever name the machine has in a network."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


def _device(kind: str, rank: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def _write(value: object, file: Path) -> None:
    with replacing(file) as part:
        part.write_bytes(pickle.dumps(value))


def _read(file: Path) -> Any:  # noqa: ANN401  # what a process left behind
    return pickle.loads(file.read_bytes())


def start_ray(
    function: Callable[..., Result],
    size: int,
    *arguments: object,
    device: Literal["cpu", "cuda"] = "cpu",
    cpus: float = 1.0,
    retries: int = 3,
) -> Result:
    """Do what `start_local` does on the Ray cluster that this process is connected to, by Ray Train.

    Where a worker or its node dies, all start again, as often as `retries` says; what they had is in a checkpoint.
    What a worker raised itself is not tried again.
    """
    try:
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        remedy = 'pip install "ray[train]"'
        raise SettingError(
            "many workers on a cluster need Ray Train", value="not installed", remedy=remedy
        ) from None

    def fit(folder: str) -> Any:  # noqa: ANN401  # what the first worker returns
        trainer = TorchTrainer(
            _work_on_ray,  # type: ignore[arg-type]
            train_loop_config={"function": function, "arguments": arguments},
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=size, use_gpu=device == "cuda", resources_per_worker={"CPU": cpus}
            ),
            # Checkpoints are ours; what Ray writes down about the run is of no use afterwards.
            run_config=RunConfig(storage_path=folder),
        )
        return trainer.fit().return_value  # type: ignore[attr-defined]

    while True:
        try:
            with TemporaryDirectory() as folder:
                result: Result = fit(folder)
            return result
        except TrainingFailedError as problem:
            error = _cause_on_ray(problem)
            if retries == 0 or not isinstance(error, WorkerDied):
                raise error from None
            retries -= 1


def _cause_on_ray(problem: Exception) -> Exception:
    """Return what a worker raised itself, if one did, or a death."""
    errors: list[Exception] = list(getattr(problem, "worker_failures", {}).values())
    own = [error for error in errors if isinstance(error, CtrbenchError | WorkerFailed)]
    return own[0] if own else WorkerDied(str((*errors, problem)[0]).strip().splitlines()[-1])


def _work_on_ray(call: dict[str, Any]) -> object:
    """Return what the function returns; what it raises lets Ray end the other workers."""
    from ray.train import get_context
    from ray.train.torch import get_device

    place = get_context()
    workers = Workers(rank=place.get_world_rank(), size=place.get_world_size(), device=get_device())
    try:
        return call["function"](workers, *call["arguments"])
    except Exception as error:
        raise _told(error) from error
    finally:
        # Nobody waits for one that has left; Ray keeps its process until all have ended.
        if distributed.is_initialized():
            distributed.destroy_process_group()
