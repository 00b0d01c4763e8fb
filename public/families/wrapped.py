"""What settings that change another network's layers have in common: `Quantised`, `Pruned`, `Slimmed`.

    detector=Quantised(network=PicoDet(...), quantisation=QAT(...))

The network, its loss and its decoder are those of `network`, whose settings can be asked of the whole as well.  Starting
weights are loaded into the network as it was before it was changed: `prepare` changes one that has its weights.
"""

from typing import Any

from torch import nn

from public.settings import IsSettings


class Wrapped:
    """Settings around a `network`; a subclass is a frozen dataclass that has this field and says what `prepare` does."""

    network: Any

    def __getattr__(self, name: str) -> Any:
        """What is not said here is asked of the network: its classes, its strides, how its loss is built."""
        if name.startswith("__") or name == "network":
            raise AttributeError(name)
        return getattr(self.network, name)

    def check_network(self) -> None:
        """Raises ValueError where the network is a pair or changed already, naming its class."""
        for name in ("used", "prepare"):
            if IsSettings().holds(self.network) and hasattr(self.network, name):
                kind = type(self.network).__name__
                raise ValueError(f"{type(self).__name__}.network is {kind}(...); it must be one network as it is")

    def build_model(self) -> nn.Module:
        """The changed network, in train mode, with initial values; errors as of the network's own `build_model`."""
        return self.prepare(self.network.build_model())

    def prepare(self, model: nn.Module) -> nn.Module:
        """`model`, changed in place; it draws no random number."""
        raise NotImplementedError(f"{type(self).__name__} has to say what is changed")
