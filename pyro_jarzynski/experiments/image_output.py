"""What a training on images leaves: its figures, and the pictures made from its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.hamiltonian import HMC
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.data.images import LabelledImages
from pyro_jarzynski.data.smoothing import SmoothingTransform
from pyro_jarzynski.ebm.energy import EnergyModel
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.masses import ClassMasses, class_masses
from pyro_jarzynski.errors import ModelFileError
from pyro_jarzynski.experiments.images import ImagesRun, denoised
from pyro_jarzynski.report.plots import plot_samples, save_figure
from pyro_jarzynski.runtime.model_files import SavedModel

NUM_SHOWN = 100
# How bright red, green and blue look; colours are shown as grey levels.
BRIGHTNESS = torch.tensor([0.299, 0.587, 0.114], device="cpu")


def image_results(run: ImagesRun, data: LabelledImages) -> dict[str, Any]:
    """Return the figures of a run: likelihoods in all units, and masses of the classes."""
    learner, transform, test = run.learner, run.transform, run.test
    found = learner.nll(test)
    num = len(data.class_names)
    walkers = {"training": learner.cloud.walkers, "audit": learner.audit.cloud.walkers}
    masses = {
        name: class_masses(cloud, run.classifier.classify, num_classes=num)
        for name, cloud in walkers.items()
    }
    return {
        "test_nll": found.nll,
        "test_nll_data_error": found.data_error,
        "num_test": len(test),
        "image_nll": transform.image_nll(found.nll, test),
        "bits_per_dimension": transform.bits_per_dimension(found.nll, test),
        "base_test_nll": run.base_nll,
        "noise_nll": transform.noise_nll(test[0].numel()),
        "class_names": list(data.class_names),
        "data_masses": (data.labels.bincount(minlength=num) / len(data.labels)).tolist(),
        "classifier_accuracy": run.accuracy,
        "gradients": learner.num_steps * _gradients_per_update(learner),
        **{f"{name}_masses": _plain(found) for name, found in masses.items()},
    }


def image_extras(run: ImagesRun, data: LabelledImages) -> dict[str, Tensor]:
    """Return what a report needs beside the model: the transform, and real images."""
    transform = run.transform
    settings = [transform.noise, transform.centre, transform.scale]
    return {
        "transform": torch.tensor(settings, dtype=torch.float64, device="cpu"),
        "real": data.test_images[:NUM_SHOWN],
    }


def draw_images(out: Path, saved: SavedModel) -> tuple[dict[str, Path], dict[str, str]]:
    """Draw samples beside real images; return the pictures and the summary of a run."""
    model, real = saved.model, saved.extras["real"]
    if not isinstance(model, EnergyModel):
        raise ModelFileError(
            f"{out} holds no model of images, but a {type(model).__name__}. Name the "
            "`--out` of a `pyro-jarzynski train` of images."
        )
    transform = SmoothingTransform(*saved.extras["transform"].tolist())
    generator = torch.Generator().manual_seed(0)
    chosen = systematic(saved.log_weight, NUM_SHOWN, generator)
    # Those of the same ancestor follow each other.
    order = torch.randperm(NUM_SHOWN, generator=generator, device="cpu")
    draws = saved.position[chosen[order]]
    images = denoised(model, draws, transform.noise_in_coordinates)
    levels = transform.inverse(images).reshape(-1, *real.shape[1:])
    titles = ("weighted draws, without noise", "real test images")
    axes = plot_samples(_grey(levels), _grey(real), levels=256, titles=titles)
    save_figure(axes, out / "samples.png")
    caption = (
        "Weighted draws of the model, of which it takes the noise off itself, beside real "
        "images"
    )
    return {caption: out / "samples.png"}, _summary(saved)


def _gradients_per_update(learner: Learner) -> int:
    """Return the evaluations of energy and gradient at walkers, those of the audit too."""
    cloud, kernel = learner.cloud, learner.cloud.kernel
    per_move = kernel.steps_per_move if isinstance(kernel, HMC) else 1
    moved = cloud.active.num_walkers + learner.audit.cloud.num_walkers
    return moved * (1 + cloud.num_moves * per_move)


def _summary(saved: SavedModel) -> dict[str, str]:
    results = saved.notes["results"]
    error, noise = saved.log_normalizer_error, results["noise_nll"]
    known = [f"{share:.3f}" for share in results["data_masses"]]
    return {
        "Test NLL": f"{results['test_nll']:.2f} nats ± {error:.2f} (log Z)"
        f" ± {results['test_nll_data_error']:.2f} ({results['num_test']} noisy images)",
        "Above the entropy of the noise": f"{results['test_nll'] - noise:.2f} nats",
        "Its start, above the same": f"{results['base_test_nll'] - noise:.2f} nats",
        "Noisy grey levels": f"{results['image_nll']:.2f} nats, "
        f"{results['bits_per_dimension']:.4f} bits per dimension",
        "Classes": ", ".join(results["class_names"]),
        "Masses of the data": ", ".join(known),
        "Masses, audit walkers": _shown(results["audit_masses"]),
        "Masses, training walkers": _shown(results["training_masses"]),
        "Accuracy of the classifier": f"{results['classifier_accuracy']:.3f}",
        "log Z": f"{saved.log_normalizer:.2f} ± {error:.2f}",
        "Best update": f"{results['best_update']} of {results['updates']}",
        "Gradients of walkers": f"{results['gradients']:,}",
        "Training time": f"{results['seconds']:.0f} s",
    }


def _plain(found: ClassMasses) -> dict[str, list]:
    return {"mass": found.mass.tolist(), "interval": found.interval().tolist()}


def _shown(masses: Mapping[str, list]) -> str:
    pairs = zip(masses["mass"], masses["interval"], strict=True)
    each = [f"{mass:.3f} [{low:.3f}, {high:.3f}]" for mass, (low, high) in pairs]
    return ", ".join(each)


def _grey(images: Tensor) -> Tensor:
    """Return one channel of `(n, C, rows, columns)` images."""
    if images.shape[1] == 1:
        return images[:, 0]
    return torch.einsum("nchw,c->nhw", images.float(), BRIGHTNESS)
