"""The losses of reinforcement learning: surrogates whose gradient is that of the expected return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from distmeta.core.records import Data
from distmeta.objectives.distributions import divergence, entropy, fisher, log_probability
from distmeta.objectives.options import PolicyGradientOptions
from distmeta.objectives.weights import mean, share, weight_of

if TYPE_CHECKING:
    from torch import Tensor


class PolicyGradient:
    r"""What the surrogates share; all are means over the N transitions of a task's episodes.

    The data are observations ``x`` (N, ...), actions ``y``, advantages and gains (E, H) by episode and time, N = E H,
    the network's ``outputs`` (N, ...) when the actions were drawn and the logarithms of their probabilities by then,
    ``log_probs`` (N,), and ``weight`` (N,): 1 for transitions, 0 for what comes after an episode's end. ``entropy``
    times the mean entropy of the policy is subtracted from each loss. Where the network judges states as well
    (``tasks.baseline: network``), the last of its outputs is that, ``targets`` (N,) are what it should be, and
    ``value_weight`` times their mean squared distance is added.

    Attributes:
        of_policies: that the outputs are a policy's.
        known: what may be chosen as metrics; successes are told by some environments alone.
        comparable: whether a policy whose loss is lower is a better one, by the loss's value.
        least_episodes: of fewer episodes of a task the loss learns nothing.
    """

    Options: ClassVar[type[PolicyGradientOptions]] = PolicyGradientOptions
    classes: ClassVar[bool] = False
    of_policies: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = True
    comparable: ClassVar[bool] = True
    least_episodes: ClassVar[int] = 1
    metrics: tuple[str, ...] = ("return", "return_before")
    known: ClassVar[tuple[str, ...]] = ("return", "return_before", "success", "success_before")
    higher_is_better: bool = True

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options(name=type(self).__name__)

    def surrogate(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar loss without the entropy's part."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar loss."""
        return self._with_others(self.surrogate(of_actions(outputs, data), data), outputs, data)

    def clipped(self, outputs: Tensor, data: Data, clip: float) -> Tensor:
        """``-mean(min(rho A, clip(rho, 1 - clip, 1 + clip) A))``, rho the probability over that of the draw.

        Schulman et al. 2017, arXiv 1707.06347, equation 7.
        """
        ratio = (log_probability(of_actions(outputs, data), data["y"]) - data["log_probs"]).exp()
        judged = data["advantages"].flatten()
        least = (ratio * judged).minimum(ratio.clamp(1 - clip, 1 + clip) * judged)
        return self._with_others(-mean(least, weight_of(data)), outputs, data)

    def _with_others(self, value: Tensor, outputs: Tensor, data: Data) -> Tensor:
        """The loss with the parts of the entropy and of the judgement of states."""
        weight = weight_of(data)
        if self.options.entropy:
            value = value - self.options.entropy * mean(entropy(of_actions(outputs, data), data["y"]), weight)
        if "targets" in data and self.options.value_weight:
            off = (outputs[..., -1] - data["targets"]).square()
            value = value + self.options.value_weight * mean(off, weight)
        return value

    def nll(self, outputs: Tensor, data: Data) -> Tensor:
        """Mean negative log-likelihood of the actions."""
        return -mean(log_probability(of_actions(outputs, data), data["y"]), weight_of(data))

    def measure(self, outputs: Tensor, data: Data) -> dict[str, Tensor]:
        """Mean undiscounted returns of the episodes after adaptation and before it, which are the sample's own.

        Also what part of them succeeds, where that is known.
        """
        return {name: data[name] for name in self.metrics}

    def curvature(self, outputs: Tensor, data: Data, tangent: Tensor) -> Tensor:
        """Fisher information of the policy, the mean over transitions."""
        product, weight = fisher(outputs, data["y"], tangent), weight_of(data)
        return product / len(outputs) if weight is None else product * share(weight, outputs).unsqueeze(-1)

    def divergence(self, before: Tensor, after: Tensor, data: Data) -> Tensor:
        """Mean Kullback-Leibler divergence of the policy after from that before."""
        before, after = of_actions(before, data), of_actions(after, data)
        return mean(divergence(before, after, data["y"]), weight_of(data))


def of_actions(outputs: Tensor, data: Data) -> Tensor:
    """The outputs that are a distribution of actions, without what judges the state where there is that."""
    return outputs[..., :-1] if "targets" in data else outputs


class LikelihoodRatio(PolicyGradient):
    r"""``-mean(pi(a|s) / pi_old(a|s) A)``, where pi_old is the policy that drew the actions.

    Of all surrogates with the right second derivative of the expected return by the inner step it has the least
    variance (Rothfuss, Lee, Clavera, Asfour, Abbeel, ICLR 2019, section 4.2), and it is that of trust regions
    (Schulman et al., ICML 2015, equation 14).
    """

    def surrogate(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean."""
        ratio = (log_probability(outputs, data["y"]) - data["log_probs"]).exp()
        return -mean(ratio * data["advantages"].flatten(), weight_of(data))


class Reinforce(PolicyGradient):
    r"""``-mean(log pi(a|s) A)``: the right gradient, and the wrong second derivative.

    Williams 1992; the inner loss of Finn, Abbeel, Levine, ICML 2017 (equation 4).
    """

    def surrogate(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean."""
        return -mean(log_probability(outputs, data["y"]) * data["advantages"].flatten(), weight_of(data))


class Dice(PolicyGradient):
    r"""``-mean(magic(sum of log pi up to t) G_t)``, ``magic(x) = exp(x - stop(x))``: unbiased, and noisy.

    G is the discounted reward less its mean at this time, see :func:`~distmeta.programs.advantages.gains`. Foerster et
    al., ICML 2018 (equation 4); Rothfuss et al., ICLR 2019 (appendix B). Its value says nothing; it suits inner loops
    and gradient steps. Of a single episode all G are 0.
    """

    comparable: ClassVar[bool] = False
    least_episodes: ClassVar[int] = 2

    def surrogate(self, outputs: Tensor, data: Data) -> Tensor:
        """Scalar mean."""
        gains, weight = data["gains"], data["weight"]
        done = weight.to(outputs.dtype).view_as(gains)
        so_far = (log_probability(outputs, data["y"]).view_as(gains) * done).cumsum(-1)
        magic = (so_far - so_far.detach()).exp()
        return -mean((magic * gains).flatten(), weight)
