"""History of a training run: its position in the training data, and the results of all evaluations on dev."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class History:
    """Position in the training data and results of all evaluations; a checkpoint stores its attributes."""

    epoch: int = 0
    """Number of complete epochs."""
    window: int = 0
    batch: int = 0
    mark: int = 0
    """Number of parts of the current epoch after which dev was evaluated, of `TrainConfig.evaluations`."""
    rows: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "dev": 0.0})
    loss_sum: float = 0.0
    """Sum over the rows since the last evaluation, as all sums here."""
    loss_rows: int = 0
    log_sums: dict[str, float] = field(default_factory=dict)
    log_steps: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best_evaluation: int = 0
    """Number of the best evaluation, from 1; 0 before the first one."""
    best_score: float = -float("inf")
    num_bad: int = 0
    """Number of evaluations since the best one."""
    is_done: bool = False
    resumed: int = 0

    def add_evaluation(self, *, epoch: float, step: int, dev: dict[str, float | None]) -> None:
        """Append an evaluation on dev with the means over the steps since the last one, and start new sums."""
        self.evaluations.append(
            {
                "epoch": epoch,
                "step": step,
                "rows": self.rows,
                "loss": self.loss_sum / max(1, self.loss_rows),
                "dev": dev,
                "logs": {name: total / self.log_steps for name, total in self.log_sums.items()},
            }
        )
        self.loss_sum, self.loss_rows, self.log_sums, self.log_steps = 0.0, 0, {}, 0

    def add_score(self, score: float) -> bool:
        """Count the score of the last evaluation; return whether it is the best so far."""
        is_best = score > self.best_score or not self.best_evaluation
        if is_best:
            self.best_score, self.best_evaluation, self.num_bad = score, len(self.evaluations), 0
        else:
            self.num_bad += 1
        return is_best

    def end_epoch(self) -> None:
        """Move to the start of the next epoch."""
        self.epoch += 1
        self.window = self.batch = self.mark = 0
