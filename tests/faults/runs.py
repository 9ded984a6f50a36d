"""Short runs of every kind, and all that they found: what must not depend on company."""

import torch

from pyro_jarzynski import AnnealedSMC, JarzynskiLearner, Renewal
from tests.ebm.models import mixture_data, network_model
from tests.infer.batches import conjugate

DATA = torch.linspace(-1, 1, 5)


def sampler(seed: int = 0) -> AnnealedSMC:
    return AnnealedSMC(conjugate, num_walkers=64, num_chains=2, seed=seed, progress=False)


def inferred(seed: int) -> list[float]:
    result = sampler(seed).run(DATA)
    return [*result.log_evidence_per_chain.tolist(), *result.get_samples()["m"].tolist()]


def learner(seed: int = 0) -> JarzynskiLearner:
    """A learner whose audit is renewed, by draws of torch's distributions."""
    model = network_model()
    return JarzynskiLearner(
        model,
        torch.optim.Adam(model.parameters(), 1e-2),
        num_walkers=60,
        audit_walkers=40,
        renewal=Renewal(every=5, num_temperatures=4, num_moves=1),
        seed=seed,
    )


def parameters_of(trained: JarzynskiLearner) -> list[float]:
    found = [parameter.detach().flatten() for parameter in trained.model.parameters()]
    return [trained.log_normalizer, *torch.cat(found).tolist()]


def trained(seed: int) -> list[float]:
    found = learner(seed)
    found.fit(mixture_data(50, seed=seed).float(), 12)
    return parameters_of(found)


RUNS = {"inference": inferred, "training": trained}
