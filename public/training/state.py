"""What training changes, and how it goes into a checkpoint and comes back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from public.parts import joined_state, load_state, other_numbers, state_beside, state_of, used_part
from public.runs.checkpoint import check_parts, lacking
from public.text import brief, shorten
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
        """`model` holds the weights to use, `training` all that is needed beside them to go on.

        What a network trains beside the part that is used, such as the adapters of a student, is `beside`.
        """
        optimizer = self.optimizer.state_dict()
        training = {
            "optimizer": optimizer,
            "num_optimizer_states": len(optimizer["state"]),  # parameters that never had a gradient have none
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
        if beside := state_beside(self.weights):
            training["beside"] = beside
        return {"model": state_of(used_part(self.weights)), "training": training}

    def load_state_dict(self, checkpoint: dict) -> None:
        """Puts the whole state back.

        Raises:
            ValueError: naming the part of the state that the checkpoint lacks or that is of another kind, or the weights
                that do not fit.
        """
        check_parts(checkpoint)
        try:
            training = checkpoint["training"]
            weights = joined_state(self.weights, checkpoint["model"], training.get("beside", {}))
            raw = training["raw_model"] if self.ema else weights
            for model, state in ((self.model, raw), (self.weights, weights)):
                if wrong := other_numbers(state_of(model), state, exact=True):
                    raise ValueError(f"the checkpoint does not fit the model and the settings: {wrong}")
            load_state(self.model, raw)
            if self.ema:
                self.ema.load_state_dict({"model": weights} | training["ema"])
            _check_optimizer(
                self.optimizer.state_dict(),
                training["optimizer"],
                self.optimizer.param_groups,
                training.get("num_optimizer_states"),
            )
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
        except (RuntimeError, TypeError, AttributeError) as error:  # torch's, which names the weights
            reason = shorten(" ".join(str(error).split()), 1000)
            raise ValueError(f"the checkpoint does not fit the model and the settings: {reason}") from error


def _check_optimizer(own: dict, saved: dict, groups: list[dict], num_states: int | None) -> None:
    """Raises ValueError where the optimizer's saved state is not one of these parameters, which torch would find in a step;
    KeyError, naming it, where a part is missing.

    Args:
        own: the state that it has before.
        groups: its groups, with the parameters themselves.
        num_states: parameters that had a state when the checkpoint was written; None: it does not say, as older ones.
    """
    wrong = None
    if not isinstance(saved["param_groups"], list) or not isinstance(saved["state"], dict):
        wrong = "its groups of parameters are no list, or their state is no dict"
    elif len(saved["param_groups"]) != len(own["param_groups"]):
        wrong = f"it has {len(saved['param_groups'])} groups of parameters, the optimizer {len(own['param_groups'])}"
    else:
        for number, (group, theirs) in enumerate(zip(own["param_groups"], saved["param_groups"])):
            wrong = wrong or _group_problem(group, theirs, f"its group {number}")
        parameters = [parameter for group in groups for parameter in group["params"]]
        wrong = wrong or _state_problem(saved["state"], parameters)
        if not wrong and num_states not in (None, len(saved["state"])):
            found = len(saved["state"])
            wrong = f"it has the state of {found} parameters, the checkpoint was written with {num_states}"
    if wrong:
        raise ValueError(f"the checkpoint does not fit the optimizer: {wrong}")


def _group_problem(own: dict, saved: object, name: str) -> str | None:
    if not isinstance(saved, dict) or saved.get("params") != own["params"]:
        return f"{name} is not one of the same parameters"
    for key in own.keys() & saved.keys():
        if _kind(own[key]) != _kind(saved[key]):
            return f"{key} of {name} is {brief(saved[key])}, where {own[key]!r} stood"
    return None if "lr" in saved else f"{name} has no lr"


def _kind(value: Any) -> object:
    """What a value of a group may be exchanged for: a number for a finite number, a tuple for one of as many numbers."""
    if isinstance(value, list | tuple):
        return [_kind(item) for item in value]
    if type(value) in (int, float):
        return "number" if abs(value) < 2**1023 else "not finite"
    return type(value)


def _state_problem(state: dict, parameters: list[torch.Tensor]) -> str | None:
    first: tuple[int, dict] | None = None  # of the parameters, whose state all others have to be like
    counting: tuple[int, set] | None = None  # of those of several numbers, with what is one number, such as the steps
    for number, entries in state.items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(entries, dict):
            return f"its state of parameter {brief(number)} is none"
        parameter = parameters[number]
        for name, value in entries.items():
            is_known = value is None or type(value) in (int, float) or torch.is_tensor(value)
            if not is_known or (torch.is_tensor(value) and not _belongs_to(parameter, value)):
                return f"{name} of parameter {number}, {_named(parameter)}, is {_named(value)}"
        kinds = {str(name): _kind_of_state(value) for name, value in entries.items()}
        first = first or (number, kinds)
        if kinds != first[1]:
            here, there = _named_kinds(kinds), _named_kinds(first[1])
            return f"the state of parameter {number} is {here}, that of parameter {first[0]} {there}"
        if parameter.ndim:
            counts = {str(name) for name, value in entries.items() if torch.is_tensor(value) and not value.ndim}
            counting = counting or (number, counts)
            if other := sorted(counts ^ counting[1]):
                return f"{other[0]} is one number of one of the parameters {counting[0]} and {number}, and not of the other"
    return None


def _belongs_to(parameter: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether it may be of the optimizer's state of `parameter`: as many numbers, of its kind, or one, such as the steps."""
    if value.shape == parameter.shape:
        return value.dtype == parameter.dtype
    return not value.ndim and value.is_floating_point()


def _named(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if torch.is_tensor(value) else brief(value)


def _kind_of_state(value: Any) -> str:
    return "a tensor" if torch.is_tensor(value) else "nothing" if value is None else "a number"


def _named_kinds(kinds: dict[str, str]) -> str:
    return shorten(", ".join(f"{name} {kind}" for name, kind in sorted(kinds.items())) or "empty")
