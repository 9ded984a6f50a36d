"""Modes and defaults of torch under which a run may be started."""

import pytest
import torch
from torch.distributions import Independent, Normal

from pyro_jarzynski import (
    HMC,
    MALA,
    MLP,
    ULA,
    AnnealedSMC,
    EnergyModel,
    UnderdampedLangevin,
    init,
)
from pyro_jarzynski import run as run_walkers
from pyro_jarzynski.errors import ArgumentError, ModelError
from tests.ebm.models import Shifted, mixture_data, mixture_learner, network_model
from tests.faults.runs import DATA, RUNS, learner, parameters_of, sampler, trained
from tests.infer.batches import run

MODES = [torch.no_grad, torch.inference_mode, torch.enable_grad]


@pytest.mark.parametrize("mode", MODES)
def test_inference_inside_a_mode(mode):
    expected = RUNS["inference"](1)
    with mode():
        assert RUNS["inference"](1) == expected


@pytest.mark.parametrize("mode", MODES)
def test_training_inside_a_mode(mode):
    """Data and updates are made inside; the network is not."""
    expected, found = trained(1), learner(1)
    with mode():
        found.fit(mixture_data(50, seed=1).float(), 12)
    assert parameters_of(found) == expected


@pytest.mark.parametrize("mode", MODES)
def test_learners_made_inside_a_mode_go_on_outside(mode):
    model, other = Shifted(), Shifted()
    with mode():
        inside = mixture_learner(model=model)
        inside.fit(mixture_data(20), 3)
    inside.fit(mixture_data(20), 3)
    outside = mixture_learner(model=other)
    outside.fit(mixture_data(20), 6)
    assert torch.equal(model.mean, other.mean)
    assert inside.log_normalizer == outside.log_normalizer


def test_parameters_made_without_gradients_for_ever_are_refused():
    with torch.inference_mode():
        model = Shifted()
    with pytest.raises(ArgumentError, match=r"`model` .* in `torch.inference_mode`, mean"):
        mixture_learner(model=model)


@pytest.mark.global_state
def test_default_dtype():
    """Latents and networks that leave their dtype to the default follow it."""
    torch.set_default_dtype(torch.float64)
    result = sampler().run(DATA.double())
    assert result.get_samples()["m"].dtype == torch.float64
    model = network_model()
    found = mixture_learner(model=model)
    found.fit(mixture_data(20), 3)
    assert found.cloud.position.dtype == torch.float64


@pytest.mark.parametrize("name", RUNS)
def test_default_device(name):
    expected = RUNS[name](1)
    with torch.device("cpu"):
        assert RUNS[name](1) == expected


def test_a_device_without_numbers():
    def model(y=None):
        raise AssertionError("the model was run")

    with pytest.raises(ModelError, match=r"argument number 0 .* meta device.*no numbers"):
        run(model, torch.zeros(3, device="meta"))
    with pytest.raises(ModelError, match=r"argument y of the model is on the meta"):
        AnnealedSMC(model, progress=False).run(y=torch.zeros(3, device="meta"))
    with torch.device("meta"), pytest.raises(ModelError, match="default device is meta"):
        run(model)
    with pytest.raises(ArgumentError, match="`position` is on the meta device"):
        init(torch.zeros(3, 2, device="meta"), lambda x: x.sum(1))
    with torch.device("meta"):
        base = Normal(torch.zeros(3), torch.ones(3), validate_args=False)
        net, base = MLP([3, 4]), Independent(base, 1, validate_args=False)
        with pytest.raises(ArgumentError, match="are on the meta device"):
            EnergyModel(net, base)


def compiled(function):
    """Compile a function, or skip where there is no compiler that works."""
    found = torch.compile(function, dynamic=False)
    try:
        found(torch.zeros(40, 2))
    except Exception as error:
        pytest.skip(f"no compiler: {type(error).__name__}")
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "kernel", [ULA(0.1), MALA(0.3), HMC(0.3), UnderdampedLangevin(0.2)], ids=str
)
def test_a_compiled_energy(kernel):
    """Its numbers are those of the plain one, to rounding."""

    def energy(x):
        return (x.square() + x.sin()).sum(1)

    fast = compiled(energy)
    position = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))

    def carried(energy):
        generator = torch.Generator().manual_seed(1)
        walkers = init(position, lambda x: x.square().sum(1) / 2)
        return run_walkers(walkers, [energy] * 4, kernel, generator=generator)[0]

    found, expected = carried(fast), carried(energy)
    torch.testing.assert_close(found.position, expected.position, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.log_weight, expected.log_weight, rtol=0, atol=1e-4)
