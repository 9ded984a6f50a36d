"""Operations of Pyro and torch that `torch.func.vmap` refuses, in a form that it maps.

They read `Tensor.data`, write into tensors in place, or branch on values. Inside
`mappable()` others take their place, with the same numbers and gradients up to rounding.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pyro.distributions as dist
import torch
from pyro.contrib.epidemiology import compartmental
from pyro.contrib.epidemiology import distributions as epidemiology
from pyro.contrib.tracking import assignment
from pyro.distributions import (
    hmm,
    projected_normal,
    sine_bivariate_von_mises,
    stable,
    stable_log_prob,
)
from pyro.distributions.transforms import normalize
from pyro.infer.reparam import projected_normal as projected_normal_reparam
from pyro.infer.reparam import stable as stable_reparam
from pyro.ops import gaussian, special, tensor_utils
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Multinomial,
    NegativeBinomial,
    Wishart,
)
from torch.distributions.utils import broadcast_all, lazy_property
from torch.overrides import TorchFunctionMode


@contextmanager
def mappable() -> Iterator[None]:
    """Replace what `vmap` refuses inside the block; one thread at a time may enter.

    Example:
        >>> def log_factor(scale):
        ...     matrix = scale * torch.eye(2)
        ...     return pyro.ops.tensor_utils.safe_cholesky(matrix).diagonal().log().sum()
        >>> with mappable():
        ...     torch.func.vmap(log_factor)(torch.tensor([1.0, math.e]))
        tensor([0.0000, 1.0000])
    """
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in REPLACEMENTS]
    try:
        for owner, name, replacement in REPLACEMENTS:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


class _OverWalkers(torch.autograd.Function):
    """The largest element of a tensor, over all walkers that `vmap` maps over as well."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.max()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, None]:
        return x.max(), None


def _largest(x: Tensor) -> Tensor:
    """Return the largest element over all walkers, as a number that Python can read."""
    found = _OverWalkers.apply(x.detach())
    assert isinstance(found, Tensor)
    return found


def anywhere(mask: Tensor) -> bool:
    """Tell whether a mask holds anywhere, at any of the walkers that are mapped."""
    return bool(_largest(mask.any()))


class _Unstopped(TorchFunctionMode):
    """Lets a condition hold if it does at any walker, and reads `Tensor.data` by `detach`.

    For functions that only check their arguments by conditions: what fails at some walkers
    must not stop the others.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func is torch.Tensor.clamp_:
            # Which `vmap` maps by a loop.
            return args[0].copy_(torch.clamp(*args, **(kwargs or {})))
        if func is torch.Tensor.__bool__:
            return anywhere(args[0] != 0)
        if func is torch.Tensor.__format__:
            return "that of a walker"
        return func(*args, **(kwargs or {}))


def _unstopped(owner: type, name: str) -> tuple[type, str, Any]:
    """Return a method, or lazy property, whose conditions are for all walkers together."""
    found = vars(owner)[name]
    original = found.wrapped if isinstance(found, lazy_property) else found

    @wraps(original)
    def decided(*args: Any, **kwargs: Any) -> Any:
        with _Unstopped():
            return original(*args, **kwargs)

    return owner, name, lazy_property(decided) if found is not original else decided


class SafeLog(torch.autograd.Function):
    """The logarithm, whose derivative is `1 / eps` at most."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the logarithm."""
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the argument."""
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient, bounded."""
        (x,) = ctx.saved_tensors
        return grad / x.clamp(min=torch.finfo(x.dtype).eps)


def safe_cholesky(x: Tensor) -> Tensor:
    """Return the Cholesky factor of a matrix with a jitter relative to its rows."""
    jitter = tensor_utils.CHOLESKY_RELATIVE_JITTER
    if x.size(-1) == 1:
        return (x.clamp(min=torch.finfo(x.dtype).tiny) if jitter else x).sqrt()
    if jitter:
        largest = x.detach().abs().max(-1).values
        x = x + (jitter * torch.finfo(x.dtype).eps * largest).diag_embed()
    return torch.linalg.cholesky(x)


def safe_normalize(x: Tensor, *, p: float = 2) -> Tensor:
    """Return vectors on the sphere of the `p`-norm; zero becomes the first unit vector."""
    norm = torch.linalg.norm(x, dim=-1, ord=p, keepdim=True)
    x = x / norm.clamp(min=torch.finfo(x.dtype).tiny)
    first = torch.arange(x.shape[-1], device=x.device) == 0
    is_zero = x.detach().eq(0).all(-1, keepdim=True)
    return x + (is_zero & first).to(x.dtype)


def _logmatmulexp(x: Tensor, y: Tensor) -> Tensor:
    """Return the logarithm of a product of matrices of which logarithms are given."""
    least = torch.finfo(x.dtype).min
    x_shift = x.detach().max(-1, keepdim=True).values.clamp(min=least)
    y_shift = y.detach().max(-2, keepdim=True).values.clamp(min=least)
    xy = special.safe_log(torch.matmul((x - x_shift).exp(), (y - y_shift).exp()))
    return xy + x_shift + y_shift


def _beside(x: Tensor, hole: float, radius: float) -> tuple[Tensor, Tensor]:
    """Return points below and above, and their weights, to interpolate over a hole.

    Elsewhere both points are that itself, each of weight a half. Gradients pass as if
    nothing had been moved.

    Returns:
        Points and weights, `(*shape, 2)`.
    """
    known = x.detach()
    near = ((known - hole).abs() <= radius).unsqueeze(-1)
    edges = known.new_tensor([hole - radius, hole + radius])
    moved = torch.where(near, edges, known.unsqueeze(-1))
    distance = (moved - known.unsqueeze(-1)).abs()
    weight = torch.where(near, 1 - distance / (2 * radius), 0.5)
    return x.unsqueeze(-1) + (moved - known.unsqueeze(-1)), weight


def _unsafe_standard_stable(
    alpha: Tensor, beta: Tensor, V: Tensor, W: Tensor, coords: str
) -> Tensor:
    """Return a stable variable from a uniform and an exponential one; not for `alpha` 1."""
    if coords not in ("S", "S0"):
        raise ValueError(f"Unknown coords: {coords}")
    inverse, half_pi = alpha.reciprocal(), math.pi / 2
    eps = torch.finfo(V.dtype).eps
    V = V.clamp(min=2 * eps - half_pi, max=half_pi - 2 * eps)
    ha = half_pi * alpha
    b = beta * ha.tan()
    v = b.atan() - ha + alpha * (V + half_pi)
    Z = (
        v.sin()
        / ((1 + b * b).rsqrt() * V.cos()).pow(inverse)
        * ((v - V).cos().clamp(min=eps) / W).pow(inverse - 1)
    )
    Z = torch.where(Z.isnan(), 0.0, Z)
    return Z - b if coords == "S0" else Z


def _standard_stable(
    alpha: Tensor, beta: Tensor, aux_uniform: Tensor, aux_exponential: Tensor, coords: str
) -> Tensor:
    """Return a stable variable from a uniform and an exponential one."""
    near = (alpha.detach() - 1).abs() <= stable.RADIUS
    if not anywhere(near):
        return _unsafe_standard_stable(alpha, beta, aux_uniform, aux_exponential, coords)
    points, weight = _beside(alpha, 1.0, stable.RADIUS)
    b, V, W = (x.unsqueeze(-1) for x in (beta, aux_uniform, aux_exponential))
    Z = (_unsafe_standard_stable(points, b, V, W, "S0") * weight).sum(-1)
    if coords == "S0":
        return Z
    shifted = torch.where(alpha == 1, Z, Z + beta * (math.pi / 2 * alpha).tan())
    plain = torch.where(near, 1 + stable.RADIUS, alpha)
    other = _unsafe_standard_stable(plain, beta, aux_uniform, aux_exponential, coords)
    return torch.where(near, shifted, other)


def _safe_shift(a: Tensor, skew: Tensor, t_scale: Tensor, skew_abs: Tensor) -> Tensor:
    """Return the shift of a skewed stable variable, also near its hole at `a = 1`."""
    radius = 0.005
    if not anywhere((a.detach() - 1).abs() <= radius):
        return stable_reparam._unsafe_shift(a, skew, t_scale)
    points, weight = _beside(a, 1.0, radius)
    scale = skew_abs.unsqueeze(-1).pow(points.reciprocal())
    pairs = stable_reparam._unsafe_shift(points, skew.unsqueeze(-1), scale)
    return (pairs * weight).sum(-1)


def _stable_log_prob(alpha: Tensor, beta: Tensor, value: Tensor, coords: str) -> Tensor:
    """Return the log-density of a stable distribution, interpolated near `alpha = 1`."""
    if coords == "S":
        value = torch.where(alpha == 1, value, value - beta * (math.pi / 2 * alpha)).tan()
    elif coords != "S0":
        raise ValueError(f"Unknown coords: {coords}")
    tolerance = stable_log_prob.alpha_near_one_tolerance
    density = _unsafe_alpha_stable_log_prob_S0
    near = (alpha - 1).abs() < tolerance
    above = density(torch.where(near, 1 + tolerance, alpha), beta, value)
    if not anywhere(near):
        return above
    below = density(torch.full_like(above, 1 - tolerance), beta, value)
    return _interpolated(near, above, below, (alpha - 1) / (2 * tolerance) + 0.5)


def _unsafe_alpha_stable_log_prob_S0(alpha: Tensor, beta: Tensor, Z: Tensor) -> Tensor:
    """Return the log-density in Nolan's coordinates, interpolated near zero."""
    Z = Z + beta * (math.pi / 2 * alpha).tan()
    at_zero = stable_log_prob._unsafe_alpha_stable_log_prob_at_zero(alpha, 0)
    tolerance = (
        stable_log_prob.value_near_zero_tolerance_alpha * alpha / (1 - alpha).abs()
    ).clamp(
        max=stable_log_prob.value_near_zero_tolerance_density * at_zero.exp().reciprocal()
    )
    near = Z.abs() < tolerance
    density = stable_log_prob._unsafe_stable_log_prob
    above = density(alpha, beta, torch.where(near, tolerance, Z))
    if not anywhere(near):
        return above
    below = density(alpha, beta, -tolerance)
    return _interpolated(near, above, below, Z / (2 * tolerance) + 0.5)


def _interpolated(near: Tensor, above: Tensor, below: Tensor, weight: Tensor) -> Tensor:
    """Return the logarithm of a weighted mean of densities where it is `near`."""
    # Elsewhere the logarithm of a weight that is none would make gradients NaN.
    weight = torch.where(near, weight, 0.5)
    mean = torch.logaddexp(above + weight.log(), below + (1 - weight).log())
    return torch.where(near, mean, above)


def _multinomial_log_prob(self: Multinomial, value: Tensor) -> Tensor:
    """Return the log-probability of counts; a count of zero has none of `-inf`."""
    if self._validate_args:
        self._validate_sample(value)
    logits, value = broadcast_all(self.logits, value)
    log_factorial_n = torch.lgamma(value.sum(-1) + 1)
    log_factorial_xs = torch.lgamma(value + 1).sum(-1)
    logits = logits.masked_fill((value == 0) & (logits == -math.inf), 0)
    return log_factorial_n - log_factorial_xs + (logits * value).sum(-1)


def _ordered_logistic_init(
    self: dist.OrderedLogistic,
    predictor: Tensor,
    cutpoints: Tensor,
    *,
    validate_args: bool | None = None,
) -> None:
    """Compute the probability of each category from that of all below."""
    q = torch.sigmoid(cutpoints - predictor.unsqueeze(-1))
    self.predictor = predictor.expand(q.shape[:-1])
    self.cutpoints = cutpoints.expand(q.shape)
    inner = q[..., 1:] - q[..., :-1]
    probs = torch.cat([q[..., :1], inner, 1 - q[..., -1:]], -1)
    super(dist.OrderedLogistic, self).__init__(probs, validate_args=validate_args)


def _nan_normal_log_prob(self: dist.NanMaskedNormal, value: Tensor) -> Tensor:
    """Return the log-density, zero where the datum is missing."""
    known = value.isfinite()
    found = dist.Normal.log_prob(self, torch.where(known, value, self.loc))
    return torch.where(known, found, 0.0)


def _nan_multivariate_log_prob(
    self: dist.NanMaskedMultivariateNormal, value: Tensor
) -> Tensor:
    """Return the log-density of the coordinates that are not missing."""
    known = value.isfinite()
    if not anywhere(~known):
        return dist.MultivariateNormal.log_prob(self, value)
    value, known, loc = torch.broadcast_tensors(value, known, self.loc)
    covariance = self.covariance_matrix.expand(loc.shape + loc.shape[-1:])
    # Coordinates that are missing become independent and standard, and are at their mean.
    both = known.unsqueeze(-1) & known.unsqueeze(-2)
    one = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
    marginal = dist.MultivariateNormal(
        torch.where(known, loc, 0.0),
        torch.where(both, covariance, one),
        validate_args=False,
    )
    found = marginal.log_prob(torch.where(known, value, 0.0))
    return found + (~known).sum(-1).to(found.dtype) * (math.log(2 * math.pi) / 2)


def _log_bessel(orders: Any, value: Tensor, terms: Tensor | int = 250) -> Tensor:
    """Return log modified Bessel functions by a series, as long for all walkers."""
    if isinstance(terms, Tensor):
        terms = int(_largest(terms))
    return special.log_I1(orders, value, terms)


def _unwatched(value: Tensor, msg: str = "", **_: Any) -> Tensor:
    """Return a value: what is not finite is told of by the walkers that meet it."""
    del msg
    return value


def _is_zero(x: Any) -> bool:
    """Tell whether a number is zero, at all walkers."""
    return not anywhere(x != 0) if isinstance(x, Tensor) else x == 0


def _categorical_log_prob(self: Categorical, value: Tensor) -> Tensor:
    """Return the log-probability of categories, without a copy of the logits for each.

    Where data share their logits, as in a plate, the gradient of `gather` is then of the
    size of the logits, not of that times the number of data.
    """
    if self._validate_args:
        self._validate_sample(value)
    logits = getattr(self, "_unexpanded", self.logits)
    shape = torch.broadcast_shapes(value.shape, self.batch_shape)
    logits = logits[(None,) * (len(shape) + 1 - logits.dim())]
    # First the dimensions that logits have, then those in which they are shared.
    own = [dim for dim in range(len(shape)) if logits.shape[dim] != 1]
    order = own + [dim for dim in range(len(shape)) if dim not in own]
    sizes = [shape[dim] for dim in order]
    lead, shared = sizes[: len(own)], math.prod(sizes[len(own) :])
    rows = logits.permute(*order, -1).reshape(*lead, logits.shape[-1])
    index = value.long().expand(shape).permute(order).reshape(*lead, shared)
    found = rows.gather(-1, index).reshape(sizes)
    return found.permute([order.index(dim) for dim in range(len(shape))])


def _logits_before_expand(owner: type) -> tuple[type, str, Any]:
    """Return an `expand` that computes logits first: once, not for each datum."""
    original = vars(owner)["expand"]

    @wraps(original)
    def expand(self: Any, *args: Any, **kwargs: Any) -> Any:
        logits = getattr(self, "_unexpanded", self.logits)
        expanded = original(self, *args, **kwargs)
        expanded._unexpanded = logits
        return expanded

    return owner, "expand", expand


# Where each is looked up, under which name, and what takes its place.
REPLACEMENTS: list[tuple[Any, str, Any]] = [
    (special, "_SafeLog", SafeLog),
    *((owner, "safe_cholesky", safe_cholesky) for owner in (tensor_utils, gaussian, hmm)),
    *(
        (owner, "safe_normalize", safe_normalize)
        for owner in (tensor_utils, projected_normal, normalize, projected_normal_reparam)
    ),
    *((owner, "_standard_stable", _standard_stable) for owner in (stable, stable_reparam)),
    *(
        (owner, "_unsafe_standard_stable", _unsafe_standard_stable)
        for owner in (stable, stable_reparam)
    ),
    (hmm, "_logmatmulexp", _logmatmulexp),
    (stable_reparam, "_safe_shift", _safe_shift),
    (stable, "_stable_log_prob", _stable_log_prob),
    (stable_log_prob, "_stable_log_prob", _stable_log_prob),
    (Multinomial, "log_prob", _multinomial_log_prob),
    (Categorical, "log_prob", _categorical_log_prob),
    *map(_logits_before_expand, (Bernoulli, Binomial, Categorical, NegativeBinomial)),
    (dist.OrderedLogistic, "__init__", _ordered_logistic_init),
    (dist.NanMaskedNormal, "log_prob", _nan_normal_log_prob),
    (dist.NanMaskedMultivariateNormal, "log_prob", _nan_multivariate_log_prob),
    _unstopped(stable_reparam.SymmetricStableReparam, "apply"),
    _unstopped(Wishart, "__init__"),
    _unstopped(dist.SineSkewed, "__init__"),
    _unstopped(dist.SineBivariateVonMises, "__init__"),
    (sine_bivariate_von_mises, "log_I1", _log_bessel),
    _unstopped(dist.OneOneMatching, "log_partition_function"),
    _unstopped(dist.OneTwoMatching, "log_partition_function"),
    (epidemiology, "_is_zero", _is_zero),
    *((owner, "warn_if_nan", _unwatched) for owner in (assignment, compartmental)),
]
