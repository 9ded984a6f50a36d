"""All distributions of Pyro and torch, with what is known of them, in the default dtype."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

INF = math.inf


class Entry(NamedTuple):
    """A distribution.

    Attributes:
        make: Returns it.
        low: Lower end of the support of a number.
        high: Upper end.
        outside: Values outside of the support of an array.
        inside: Returns values inside of it, if Pyro cannot draw them.
    """

    make: Callable[[], Any]
    low: float = -INF
    high: float = INF
    outside: tuple[Any, ...] = ()
    inside: Callable[[], Tensor] | None = None


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def v(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.get_default_dtype())


def n(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.get_default_dtype())


def normal_vector(*numbers: float) -> Any:
    return dist.MultivariateNormal(v(*numbers), torch.eye(len(numbers)))


def rejector() -> Any:
    """A half-normal distribution, by rejection from an exponential one."""
    return dist.Rejector(
        dist.Exponential(n(1.0)),
        lambda x: -(x - 1).square() / 2,
        n(math.log(math.sqrt(math.pi / (2 * math.e)))),
    )


def mixture(parts: Any) -> Any:
    return dist.MixtureSameFamily(dist.Categorical(v(0.3, 0.7)), parts)


def affine(fn: Any, loc: Any, scale: Any) -> Any:
    link = dist.transforms.AffineTransform(loc, scale)
    return dist.TransformedDistribution(fn, [link])


def hmm(size: int | None = None) -> Any:
    """A hidden Markov model of normal distributions, one or some alike."""
    lead = () if size is None else (size,)
    normal = dist.Normal(torch.zeros(*lead, 1), 1.0).to_event(1)
    step = dist.Normal(torch.zeros(*lead, 1, 1), 1.0).to_event(1)
    half, one = (x.expand(*lead, 1, 1, 1) for x in (n(0.5), n(1.0)))
    return dist.GaussianHMM(normal, half, step, one, step, duration=3)


# Numbers.
SCALARS = {
    "AffineBeta": Entry(lambda: dist.AffineBeta(n(2.0), n(3.0), n(1.0), n(2.0)), 1, 3),
    "AsymmetricLaplace": Entry(lambda: dist.AsymmetricLaplace(n(0.5), n(1.0), n(2.0))),
    "Beta": Entry(lambda: dist.Beta(n(2.0), n(0.7)), 0, 1),
    "Beta(1, 1)": Entry(lambda: dist.Beta(n(1.0), n(1.0)), 0, 1),
    "Cauchy": Entry(lambda: dist.Cauchy(n(0.5), n(2.0))),
    "Chi2": Entry(lambda: dist.Chi2(n(3.0)), 0),
    "ContinuousBernoulli": Entry(lambda: dist.ContinuousBernoulli(n(0.3)), 0, 1),
    "Exponential": Entry(lambda: dist.Exponential(n(2.0)), 0),
    "FisherSnedecor": Entry(lambda: dist.FisherSnedecor(n(3.0), n(5.0)), 0),
    "FoldedDistribution": Entry(
        lambda: dist.FoldedDistribution(dist.Normal(n(0.5), n(1.0))), 0
    ),
    "Gamma": Entry(lambda: dist.Gamma(n(2.0), n(3.0)), 0),
    "Gamma(1, 1)": Entry(lambda: dist.Gamma(n(1.0), n(1.0)), 0),
    "GeneralizedPareto": Entry(lambda: dist.GeneralizedPareto(n(1.0), n(2.0), n(0.3)), 1),
    "GeneralizedPareto, bounded": Entry(
        lambda: dist.GeneralizedPareto(n(1.0), n(2.0), n(-0.5)), 1, 5
    ),
    "Gumbel": Entry(lambda: dist.Gumbel(n(0.5), n(2.0))),
    "HalfCauchy": Entry(lambda: dist.HalfCauchy(n(2.0)), 0),
    "HalfNormal": Entry(lambda: dist.HalfNormal(n(2.0)), 0),
    "InverseGamma": Entry(lambda: dist.InverseGamma(n(2.0), n(3.0)), 0),
    "Kumaraswamy": Entry(lambda: dist.Kumaraswamy(n(2.0), n(3.0)), 0, 1),
    "Laplace": Entry(lambda: dist.Laplace(n(0.5), n(2.0))),
    "LogNormal": Entry(lambda: dist.LogNormal(n(0.5), n(0.7)), 0),
    "Logistic": Entry(lambda: dist.Logistic(n(0.5), n(0.7))),
    "LogitRelaxedBernoulli": Entry(lambda: LogitRelaxedBernoulli(n(0.5), n(0.3))),
    "MaskedMixture": Entry(
        lambda: dist.MaskedMixture(
            torch.tensor(data=True), dist.Normal(n(0.0), n(1.0)), dist.Gamma(n(2.0), n(1.0))
        ),
        0,
    ),
    "MixtureSameFamily": Entry(lambda: mixture(dist.Normal(v(-1.0, 2.0), v(0.5, 1.0)))),
    "MixtureSameFamily of Uniform": Entry(
        lambda: mixture(dist.Uniform(v(-1.0, 0.5), v(1.0, 3.0))), -1, 3
    ),
    "MixtureSameFamily of Exponential": Entry(
        lambda: mixture(dist.Exponential(v(1.0, 2.0))), 0
    ),
    "NanMaskedNormal": Entry(lambda: dist.NanMaskedNormal(n(0.5), n(0.7))),
    "Normal": Entry(lambda: dist.Normal(n(0.5), n(0.7))),
    "Pareto": Entry(lambda: dist.Pareto(n(2.0), n(3.0)), 2),
    "Rejector": Entry(rejector, 0),
    "RelaxedBernoulli": Entry(lambda: dist.RelaxedBernoulli(n(0.5), n(0.3)), 0, 1),
    "RelaxedBernoulliStraightThrough": Entry(
        lambda: dist.RelaxedBernoulliStraightThrough(n(0.5), n(0.3)), 0, 1
    ),
    "SkewLogistic": Entry(lambda: dist.SkewLogistic(n(0.5), n(0.7), n(2.0))),
    "SoftAsymmetricLaplace": Entry(
        lambda: dist.SoftAsymmetricLaplace(n(0.5), n(1.0), n(2.0), n(0.5))
    ),
    "SoftLaplace": Entry(lambda: dist.SoftLaplace(n(0.5), n(1.0))),
    "Stable": Entry(lambda: dist.Stable(n(1.5), n(0.3))),
    "StableWithLogProb": Entry(lambda: dist.StableWithLogProb(n(1.5), n(0.3))),
    "StudentT": Entry(lambda: dist.StudentT(n(3.0), n(0.5), n(2.0))),
    "TransformedDistribution": Entry(
        lambda: dist.TransformedDistribution(
            dist.Normal(n(0.0), n(1.0)), [dist.transforms.TanhTransform()]
        ),
        -1,
        1,
    ),
    "TruncatedPolyaGamma": Entry(lambda: dist.TruncatedPolyaGamma(n(1.0)), 0, 2.5),
    "Uniform": Entry(lambda: dist.Uniform(n(1.0), n(3.0)), 1, 3),
    "VonMises": Entry(lambda: dist.VonMises(n(2.5), n(1.0))),
    "Weibull": Entry(lambda: dist.Weibull(n(2.0), n(1.5)), 0),
}

# Vectors and matrices.
ARRAYS = {
    "AVFMultivariateNormal": Entry(
        lambda: dist.AVFMultivariateNormal(
            v(0.0, 1.0),
            n(1.0) * torch.tensor([[1.0, 0.0], [0.5, 1.0]]),
            torch.zeros(2, 1, 2),
        )
    ),
    "CoalescentTimes": Entry(
        lambda: dist.CoalescentTimes(v(0.0, 0.0, 1.0, 1.5)),
        outside=((0.5, 0.2, -1.0), (2.0, 3.0, 4.0)),
    ),
    "CoalescentTimesWithRate": Entry(
        lambda: dist.CoalescentTimesWithRate(
            v(0.0, 0.0, 1.0, 1.5), v(1.0, 0.5, 1.0, 1.0, 1.0, 1.0)
        ),
        outside=((0.5, 0.2, -1.0), (2.0, 3.0, 4.0)),
        inside=lambda: torch.stack([v(-1.0, -0.3, 0.5), v(-0.2, -0.1, 0.9)]),
    ),
    "Dirichlet": Entry(
        lambda: dist.Dirichlet(v(1.0, 2.0, 3.0)),
        outside=((0.9, 0.9, 0.9), (2.0, -1.5, 0.5)),
    ),
    "Dirichlet(1, 1)": Entry(
        lambda: dist.Dirichlet(v(1.0, 1.0)), outside=((2.0, -1.0), (0.9, 0.9))
    ),
    "ExpRelaxedCategorical": Entry(lambda: ExpRelaxedCategorical(n(0.7), v(0.2, 0.3, 0.5))),
    "GammaGaussianHMM": Entry(
        lambda: dist.GammaGaussianHMM(
            dist.Gamma(n(3.0), n(2.0)),
            normal_vector(0.0),
            n(0.5).reshape(1, 1),
            normal_vector(0.0),
            n(1.0).reshape(1, 1),
            normal_vector(0.0),
            duration=3,
        ),
        inside=lambda: v(0.3, -1.0, 2.0, 0.5, 0.1, 0.2).reshape(2, 3, 1),
    ),
    "GaussianHMM": Entry(hmm),
    "GaussianMRF": Entry(
        lambda: dist.GaussianMRF(
            normal_vector(0.0),
            normal_vector(0.0, 0.0).expand([3]),
            normal_vector(0.0, 0.0).expand([3]),
        ),
        inside=lambda: v(0.3, -1.0, 2.0, 0.5, 0.1, 0.2).reshape(2, 3, 1),
    ),
    "GaussianScaleMixture": Entry(
        lambda: dist.GaussianScaleMixture(v(1.0, 2.0), v(0.0, 1.0), v(1.0, 3.0))
    ),
    "GroupedNormalNormal": Entry(
        lambda: dist.GroupedNormalNormal(
            v(0.0, 1.0), v(1.0, 1.0), v(0.5, 0.6, 0.7), torch.tensor([0, 1, 1])
        ),
        inside=lambda: v(0.3, -1.0, 2.0, 0.5, 0.1, 0.2).reshape(2, 3),
    ),
    "IndependentHMM": Entry(lambda: dist.IndependentHMM(hmm(2))),
    "LKJ": Entry(lambda: dist.LKJ(3, n(1.5)), outside=(3 * torch.eye(3), -torch.eye(3))),
    "LKJCholesky": Entry(
        lambda: dist.LKJCholesky(3, n(1.5)), outside=(2 * torch.eye(3), torch.ones(3, 3))
    ),
    "LinearHMM": Entry(
        lambda: dist.LinearHMM(
            dist.Cauchy(v(0.0), v(1.0)).to_event(1),
            n(0.5).reshape(1, 1),
            dist.Cauchy(v(0.0), v(1.0)).to_event(1),
            n(1.0).reshape(1, 1),
            dist.Cauchy(v(0.0), v(1.0)).to_event(1),
            duration=3,
        )
    ),
    "LogisticNormal": Entry(
        lambda: dist.LogisticNormal(v(0.0, 1.0), v(1.0, 0.5)),
        outside=((0.9, 0.9, 0.9), (2.0, -1.5, 0.5)),
    ),
    "LowRankMultivariateNormal": Entry(
        lambda: dist.LowRankMultivariateNormal(
            v(0.0, 1.0), v(1.0, 0.5).unsqueeze(-1), v(1.0, 0.5)
        )
    ),
    "MixtureOfDiagNormals": Entry(
        lambda: dist.MixtureOfDiagNormals(
            torch.stack([v(0.0, 0.0), v(1.0, 2.0)]),
            torch.stack([v(1.0, 2.0), v(0.5, 0.3)]),
            v(0.0, 1.0),
        )
    ),
    "MixtureOfDiagNormalsSharedCovariance": Entry(
        lambda: dist.MixtureOfDiagNormalsSharedCovariance(
            torch.stack([v(0.0, 0.0), v(1.0, 2.0)]), v(1.0, 0.5), v(0.0, 1.0)
        )
    ),
    "MultivariateNormal": Entry(
        lambda: dist.MultivariateNormal(
            v(0.0, 1.0), torch.stack([v(2.0, 0.5), v(0.5, 1.0)])
        )
    ),
    "MultivariateStudentT": Entry(
        lambda: dist.MultivariateStudentT(
            n(5.0), v(0.0, 1.0), torch.stack([v(1.0, 0.0), v(0.5, 1.0)])
        )
    ),
    "NanMaskedMultivariateNormal": Entry(
        lambda: dist.NanMaskedMultivariateNormal(
            v(0.0, 1.0), torch.stack([v(2.0, 0.5), v(0.5, 1.0)])
        )
    ),
    "OMTMultivariateNormal": Entry(
        lambda: dist.OMTMultivariateNormal(
            v(0.0, 1.0), torch.stack([v(1.0, 0.0), v(0.5, 1.0)])
        )
    ),
    "OrderedTransform": Entry(
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), 1.0).to_event(1),
            [dist.transforms.OrderedTransform()],
        ),
        outside=((1.0, 0.5, 2.0),),
    ),
    "ProjectedNormal": Entry(
        lambda: dist.ProjectedNormal(v(1.0, 2.0)), outside=((1.0, 1.0), (0.1, 0.1))
    ),
    "RelaxedOneHotCategorical": Entry(
        lambda: dist.RelaxedOneHotCategorical(n(0.7), v(0.2, 0.3, 0.5)),
        outside=((0.9, 0.9, 0.9), (2.0, -1.5, 0.5)),
    ),
    "RelaxedOneHotCategoricalStraightThrough": Entry(
        lambda: dist.RelaxedOneHotCategoricalStraightThrough(n(0.7), v(0.2, 0.3, 0.5)),
        outside=((0.9, 0.9, 0.9), (2.0, -1.5, 0.5)),
    ),
    "SineBivariateVonMises": Entry(
        lambda: dist.SineBivariateVonMises(
            n(1.0), n(-1.0), n(3.0), n(2.0), correlation=n(0.8)
        )
    ),
    "SineSkewed": Entry(
        lambda: dist.SineSkewed(
            dist.VonMises(v(1.0, 2.0), v(1.0, 2.0)).to_event(1), v(0.3, -0.4)
        )
    ),
    "VonMises3D": Entry(
        lambda: dist.VonMises3D(v(1.0, 2.0, 0.0)),
        outside=((1.0, 1.0, 1.0), (0.1, 0.1, 0.1)),
        inside=lambda: torch.stack([v(1.0, 0.0, 0.0), v(0.6, -0.8, 0.0)]),
    ),
    "Wishart": Entry(
        lambda: dist.Wishart(n(4.0), torch.stack([v(2.0, 0.5), v(0.5, 1.0)])),
        outside=(-torch.eye(2), torch.tensor([[1.0, 0.5], [0.2, 1.0]])),
    ),
}

# Integers.
COUNTS = {
    "Bernoulli": Entry(lambda: dist.Bernoulli(n(0.3)), 0, 1),
    "BetaBinomial": Entry(lambda: dist.BetaBinomial(n(2.0), n(3.0), n(5.0)), 0, 5),
    "Binomial": Entry(lambda: dist.Binomial(5, n(0.3)), 0, 5),
    "Categorical": Entry(lambda: dist.Categorical(v(0.2, 0.3, 0.5)), 0, 2),
    "ExtendedBetaBinomial": Entry(
        lambda: dist.ExtendedBetaBinomial(n(2.0), n(3.0), n(5.0)), 0, 5
    ),
    "ExtendedBinomial": Entry(lambda: dist.ExtendedBinomial(5, n(0.3)), 0, 5),
    "GammaPoisson": Entry(lambda: dist.GammaPoisson(n(2.0), n(1.0)), 0),
    "Geometric": Entry(lambda: dist.Geometric(n(0.3)), 0),
    "LogNormalNegativeBinomial": Entry(
        lambda: dist.LogNormalNegativeBinomial(n(3.0), n(0.3), n(0.5)), 0
    ),
    "MixtureSameFamily of Poisson": Entry(lambda: mixture(dist.Poisson(v(1.0, 4.0))), 0),
    "NegativeBinomial": Entry(lambda: dist.NegativeBinomial(n(3.0), n(0.3)), 0),
    "OrderedLogistic": Entry(lambda: dist.OrderedLogistic(n(0.3), v(-1.0, 0.0, 2.0)), 0, 3),
    "Poisson": Entry(lambda: dist.Poisson(n(2.0)), 0),
    "ZeroInflatedDistribution": Entry(
        lambda: dist.ZeroInflatedDistribution(dist.Geometric(n(0.4)), gate=n(0.3)), 0
    ),
    "ZeroInflatedNegativeBinomial": Entry(
        lambda: dist.ZeroInflatedNegativeBinomial(n(3.0), probs=n(0.3), gate=n(0.3)), 0
    ),
    "ZeroInflatedPoisson": Entry(
        lambda: dist.ZeroInflatedPoisson(n(2.0), gate_logits=n(0.3)), 0
    ),
}

# Vectors of integers, with all of their values.
COUNT_ARRAYS = {
    "DirichletMultinomial": Entry(
        lambda: dist.DirichletMultinomial(v(1.0, 2.0, 3.0), 4),
        outside=((5.0, -1.0, 0.0), (1.5, 1.5, 1.0)),
    ),
    "DiscreteHMM": Entry(
        lambda: dist.DiscreteHMM(
            torch.zeros(2),
            torch.stack([v(0.7, 0.3), v(0.2, 0.8)]).log(),
            dist.Bernoulli(v(0.1, 0.7)),
            duration=3,
        ),
        outside=((0.0, 1.0, 2.0), (0.5, 0.0, 0.0)),
    ),
    "Multinomial": Entry(
        lambda: dist.Multinomial(4, v(0.2, 0.3, 0.5)),
        outside=((5.0, -1.0, 0.0), (1.5, 1.5, 1.0)),
    ),
    "OneHotCategorical": Entry(
        lambda: dist.OneHotCategorical(v(0.2, 0.3, 0.5)),
        outside=((1.0, 1.0, 0.0), (0.5, 0.5, 0.0)),
    ),
    "OneHotCategoricalStraightThrough": Entry(
        lambda: dist.OneHotCategoricalStraightThrough(v(0.2, 0.3, 0.5)),
        outside=((1.0, 1.0, 0.0), (0.5, 0.5, 0.0)),
    ),
    "OneOneMatching": Entry(
        lambda: dist.OneOneMatching(torch.arange(9.0).reshape(3, 3) / 5),
        outside=((0, 0, 1), (3, 0, 1)),
    ),
    "OneTwoMatching": Entry(
        lambda: dist.OneTwoMatching(torch.arange(8.0).reshape(4, 2) / 5),
        outside=((0, 0, 0, 1), (2, 0, 1, 1)),
    ),
    "SpanningTree": Entry(
        lambda: dist.SpanningTree(v(0.0, 0.5, 1.0)),
        outside=(((0, -1), (0, 2)), ((0, 1), (0, 1)), ((0, 2), (0, 1)), ((1, 0), (0, 2))),
    ),
}

# Distributions without a density, or without a variable.
OTHERS = {
    "Delta": Entry(lambda: dist.Delta(n(1.0)), outside=(0.5, 2.0), inside=lambda: v(1.0)),
    "Empirical": Entry(
        lambda: dist.Empirical(v(1.0, 2.0, 3.0), v(0.0, 0.0, 1.0)),
        inside=lambda: v(1.0, 3.0),
    ),
    "ImproperUniform": Entry(
        lambda: dist.ImproperUniform(dist.constraints.positive, (), ()),
        outside=(-1.0,),
        inside=lambda: v(0.5, 2.0),
    ),
    "Unit": Entry(lambda: dist.Unit(n(1.0)), inside=lambda: torch.empty(2, 0)),
}

# Forms that are refused, by an error that names the site.
ALL = ("plain", "plate", "event", "masked", "affine")
NOT_EXPANDED = dict.fromkeys(
    ["AVFMultivariateNormal", "LKJ", "OMTMultivariateNormal", "SoftAsymmetricLaplace"],
    ("plate",),
)
REFUSED = {
    "latent": {
        **NOT_EXPANDED,
        "TruncatedPolyaGamma": ("plate",),
        # Neither drawn by Pyro, nor mapped, nor continuous, nor finite.
        **dict.fromkeys(
            [
                "CoalescentTimes",
                "CoalescentTimesWithRate",
                "Delta",
                "DirichletMultinomial",
                "DiscreteHMM",
                "Empirical",
                "ExpRelaxedCategorical",
                "GammaGaussianHMM",
                "GammaPoisson",
                "GaussianMRF",
                "GaussianScaleMixture",
                "Geometric",
                "GroupedNormalNormal",
                "ImproperUniform",
                "LinearHMM",
                "LogNormalNegativeBinomial",
                "MixtureSameFamily of Poisson",
                "Multinomial",
                "NegativeBinomial",
                "Poisson",
                "ProjectedNormal",
                "Unit",
                "VonMises3D",
                "ZeroInflatedDistribution",
                "ZeroInflatedNegativeBinomial",
                "ZeroInflatedPoisson",
            ],
            ALL,
        ),
        # Torch's, without what Pyro adds to it.
        "LogitRelaxedBernoulli": ("plain", "plate", "masked"),
        # Of a single batch.
        **dict.fromkeys(
            ["OneOneMatching", "OneTwoMatching", "SpanningTree"],
            ("plate", "event", "masked", "affine"),
        ),
        # Values of an event are not enumerated one by one.
        **dict.fromkeys(
            [
                "Bernoulli",
                "BetaBinomial",
                "Binomial",
                "Categorical",
                "ExtendedBetaBinomial",
                "ExtendedBinomial",
                "OneHotCategorical",
                "OneHotCategoricalStraightThrough",
                "OrderedLogistic",
            ],
            ("event", "affine"),
        ),
    },
    "observed": {
        **NOT_EXPANDED,
        "CoalescentTimesWithRate": ("plate",),
        "Empirical": ("plate", "event", "masked"),
        "GaussianScaleMixture": ALL,
        "GroupedNormalNormal": ("plate", "affine"),
        "LinearHMM": ALL,
        "TruncatedPolyaGamma": ("plate",),
        **dict.fromkeys([*COUNTS, *COUNT_ARRAYS], ("affine",)),
    },
}
