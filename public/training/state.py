"""What training changes, and how it goes into a checkpoint and comes back."""

from dataclasses import dataclass, field

import torch
from torch import nn

from public.parts import load_state, state_of
from public.runs.checkpoint import check_parts, lacking
from public.training.ema import ModelEMA


@dataclass(kw_only=True)
class TrainingState:
    """The whole state of a run.  Random numbers need none (they come by name), schedules none (they are functions)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEMA | None
    scaler: torch.amp.GradScaler
    step: int = 0  # optimizer steps done
    phase: str = "training"  # "evaluating" while the weights of this step are being evaluated
    best: float | None = None  # the best metric so far
    evaluations_without_best: int = 0
    metrics: dict = field(default_factory=dict)  # of the last evaluation
    chain: str = ""  # digest of all losses so far: public.runs.chain
    saved: str | None = None  # what the run's newest checkpoint holds, in words; no part of the state

    @property
    def weights(self) -> nn.Module:
        """The model that is evaluated and used: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def described(self) -> str:
        return f"step {self.step} ({self.phase})"

    def state_dict(self) -> dict:
        """`model` holds the weights to use, `training` all that is needed beside them to go on."""
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "phase": self.phase,
            "best": self.best,
            "evaluations_without_best": self.evaluations_without_best,
            "metrics": self.metrics,
            "chain": self.chain,
        }
        if self.ema:
            training["raw_model"] = state_of(self.model)
            training["ema"] = {"num_updates": self.ema.num_updates, "decay_product": self.ema.decay_product}
        return {"model": state_of(self.weights), "training": training}

    def load_state_dict(self, checkpoint: dict) -> None:
        """Puts the whole state back.

        Raises:
            ValueError: naming the part of the state that the checkpoint lacks, or the weights that do not fit.
        """
        check_parts(checkpoint)
        try:
            training = checkpoint["training"]
            load_state(self.model, training["raw_model"] if self.ema else checkpoint["model"])
            if self.ema:
                self.ema.load_state_dict({"model": checkpoint["model"]} | training["ema"])
            self.optimizer.load_state_dict(training["optimizer"])
            self.scaler.load_state_dict(training["scaler"])
            self.step = training["step"]
            self.phase = training["phase"]
            self.best = training["best"]
            self.evaluations_without_best = training["evaluations_without_best"]
            self.metrics = training["metrics"]
            self.chain = training["chain"]
        except KeyError as error:  # inside a part
            raise ValueError(lacking(error.args[0])) from error
        except RuntimeError as error:  # torch's, which names the weights
            reason = " ".join(str(error).split())
            raise ValueError(f"the checkpoint does not fit the model and the settings: {reason}") from error
