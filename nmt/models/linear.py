"""The slot for matrix products: each component of a model asks for its own by what they are for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import ConfigError, suggest
from nmt.registry import build, declare_slot

ROLES = {
    "q": "queries of attention",
    "k": "keys of attention",
    "v": "values of attention, candidates of recurrences",
    "o": "output projection of attention",
    "gate": "gates of averages and recurrences",
    "ffn1": "first product of a feed-forward network",
    "ffn2": "second product of a feed-forward network",
    "output": "scores of the words",
}
"""What a product can be for. One that serves several, such as queries, keys and values in one, has all their roles."""


class LinearMap(nn.Module, ABC):
    """y = x W^T + b, however W is kept.

    Built with ``in_features``, ``out_features`` and ``bias``, and initialised by a call of ``init``.

    Attributes:
        in_features: width of x.
        out_features: width of y.
        bias: (out_features,) or None.
        packs: decoding on a CPU may replace it by a packed product with the ``matrix`` that it has then.
    """

    in_features: int
    out_features: int
    bias: nn.Parameter | None
    packs: bool = True

    @abstractmethod
    def matrix(self) -> Tensor:
        """W as it counts in a product (out_features, in_features), with gradients for what is trained."""

    @abstractmethod
    def init(self, parts: int | Sequence[int] = 1, gain: float | None = None) -> None:
        """Draw initial values; see ``init_projection``."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(x, self.matrix(), self.bias)

    def tie(self, weight: nn.Parameter) -> None:
        """Take another component's matrix (out_features, in_features) for W.

        Raises:
            ConfigError: W is not kept as a matrix.
        """
        raise ConfigError(
            f"model.linear: {type(self).__name__} keeps no matrix that the output could share with the embedding; give "
            "model.embedding.share=none, or choose another model.linear.by_role.output.name"
        )


class LinearMaker:
    """Makes the linear maps of a model from its node ``model.linear``.

    Args:
        node: ``name`` and options of a component, and ``by_role``: nodes for some of the ``ROLES``.

    Raises:
        ConfigError: ``by_role`` is no group of roles.
    """

    def __init__(self, node: Mapping[str, Any]) -> None:
        self._node = {key: value for key, value in node.items() if key != "by_role"}
        self._by_role: Mapping[str, Any] = node.get("by_role") or {}
        self._used: set[str] = set()
        if not isinstance(self._by_role, Mapping):
            raise ConfigError(
                f"model.linear.by_role={self._by_role} must be a group: model.linear.by_role.ROLE.name=NAME"
            )
        for role in self._by_role:
            if role not in ROLES:
                valid = f"{', '.join(ROLES)}{suggest(role, ROLES)}"
                raise ConfigError(f"unknown key model.linear.by_role.{role}; valid keys here: {valid}")

    def __call__(
        self, roles: str | Sequence[str], in_features: int, out_features: int, *, bias: bool = True
    ) -> LinearMap:
        """A linear map, not yet initialised.

        Args:
            roles: what it is for: one of the ``ROLES``, or several that one product serves.
            in_features: width of what it reads.
            out_features: width of what it gives.
            bias: whether it adds one.

        Raises:
            ConfigError: unknown component or option, or different components for the roles of one product.
        """
        roles = [roles] if isinstance(roles, str) else list(roles)
        self._used.update(roles)
        keys = [f"model.linear.by_role.{role}" if role in self._by_role else "model.linear" for role in roles]
        nodes = [self._by_role.get(role, self._node) for role in roles]
        for other, node in zip(keys, nodes):
            if node != nodes[0]:
                raise ConfigError(
                    f"{keys[0]} and {other} differ, but {', '.join(roles)} are one product here; give them the same"
                )
        made: LinearMap = build(
            "linear", nodes[0], key=keys[0], in_features=in_features, out_features=out_features, bias=bias
        )
        return made

    def check_used(self) -> None:
        """Refuse roles that nothing in the model has.

        Raises:
            ConfigError: there is one.
        """
        for role in self._by_role:
            if role not in self._used:
                raise ConfigError(
                    f"model.linear.by_role.{role} would do nothing: this model has {', '.join(sorted(self._used))}"
                )


declare_slot("linear", key="model.linear", interface=LinearMap)
