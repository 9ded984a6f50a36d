"""Jarzynski-weighted sequential Monte Carlo for Pyro.

Walkers carry weights along a sequence of energies. A sequence indexed by temperature
gives evidence and posterior draws; by the parameters of a network under training, an
energy-based model whose likelihood is known while it trains.
"""

from pyro_jarzynski.core.evaluation import evaluate as evaluate
from pyro_jarzynski.core.gibbs import BlockGibbs as BlockGibbs
from pyro_jarzynski.core.gibbs import GibbsEnergy as GibbsEnergy
from pyro_jarzynski.core.hamiltonian import HMC as HMC
from pyro_jarzynski.core.hamiltonian import UnderdampedLangevin as UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA as MALA
from pyro_jarzynski.core.kernels import ULA as ULA
from pyro_jarzynski.core.kernels import Kernel as Kernel
from pyro_jarzynski.core.paths import ParameterPath as ParameterPath
from pyro_jarzynski.core.paths import Tempering as Tempering
from pyro_jarzynski.core.resampling import RESAMPLERS as RESAMPLERS
from pyro_jarzynski.core.smc import StepInfo as StepInfo
from pyro_jarzynski.core.smc import run as run
from pyro_jarzynski.core.smc import step as step
from pyro_jarzynski.core.team import Tools as Tools
from pyro_jarzynski.core.transitions import Invariant as Invariant
from pyro_jarzynski.core.transitions import metropolis as metropolis
from pyro_jarzynski.core.walkers import Walkers as Walkers
from pyro_jarzynski.core.walkers import init as init
from pyro_jarzynski.data.images import LabelledImages as LabelledImages
from pyro_jarzynski.data.images import load_images as load_images
from pyro_jarzynski.data.logit import LogitTransform as LogitTransform
from pyro_jarzynski.data.smoothing import SmoothingTransform as SmoothingTransform
from pyro_jarzynski.data.tables import load_table as load_table
from pyro_jarzynski.data.toys import toy as toy
from pyro_jarzynski.diagnostics.distances import Discrepancy as Discrepancy
from pyro_jarzynski.diagnostics.distances import frechet_distance as frechet_distance
from pyro_jarzynski.diagnostics.distances import mmd as mmd
from pyro_jarzynski.diagnostics.weighted import WeightedLOO as WeightedLOO
from pyro_jarzynski.diagnostics.weighted import weighted_hdi as weighted_hdi
from pyro_jarzynski.diagnostics.weighted import weighted_loo as weighted_loo
from pyro_jarzynski.diagnostics.weighted import weighted_mean as weighted_mean
from pyro_jarzynski.diagnostics.weighted import weighted_quantile as weighted_quantile
from pyro_jarzynski.diagnostics.weighted import weighted_sd as weighted_sd
from pyro_jarzynski.diagnostics.weighted import weighted_summary as weighted_summary
from pyro_jarzynski.ebm.algebra import ConditionedNet as ConditionedNet
from pyro_jarzynski.ebm.algebra import SumNet as SumNet
from pyro_jarzynski.ebm.bases import ComponentMasses as ComponentMasses
from pyro_jarzynski.ebm.bases import PCAMixture as PCAMixture
from pyro_jarzynski.ebm.boltzmann import BinaryRBMEnergy as BinaryRBMEnergy
from pyro_jarzynski.ebm.check import NormalizerBounds as NormalizerBounds
from pyro_jarzynski.ebm.check import annealed_walkers as annealed_walkers
from pyro_jarzynski.ebm.check import normalizer_bounds as normalizer_bounds
from pyro_jarzynski.ebm.classifier import ImageClassifier as ImageClassifier
from pyro_jarzynski.ebm.classifier import train_classifier as train_classifier
from pyro_jarzynski.ebm.closed_forms import QuadraticEnergy as QuadraticEnergy
from pyro_jarzynski.ebm.closed_forms import RBMEnergy as RBMEnergy
from pyro_jarzynski.ebm.contrastive import ContrastiveDivergence as ContrastiveDivergence
from pyro_jarzynski.ebm.contrastive import (
    PersistentContrastiveDivergence as PersistentContrastiveDivergence,
)
from pyro_jarzynski.ebm.convolutional import ConvNet as ConvNet
from pyro_jarzynski.ebm.convolutional import Convolution as Convolution
from pyro_jarzynski.ebm.convolutional import ResidualMLP as ResidualMLP
from pyro_jarzynski.ebm.convolutional import cifar_network as cifar_network
from pyro_jarzynski.ebm.convolutional import mnist_network as mnist_network
from pyro_jarzynski.ebm.distribution import EnergyDistribution as EnergyDistribution
from pyro_jarzynski.ebm.energy import EnergyModel as EnergyModel
from pyro_jarzynski.ebm.followers import Followers as Followers
from pyro_jarzynski.ebm.history import History as History
from pyro_jarzynski.ebm.inception import inception_distance as inception_distance
from pyro_jarzynski.ebm.jarzynski import JarzynskiLearner as JarzynskiLearner
from pyro_jarzynski.ebm.latent import LatentLikelihood as LatentLikelihood
from pyro_jarzynski.ebm.mass_watch import MassWatch as MassWatch
from pyro_jarzynski.ebm.masses import ClassMasses as ClassMasses
from pyro_jarzynski.ebm.masses import class_masses as class_masses
from pyro_jarzynski.ebm.networks import MLP as MLP
from pyro_jarzynski.ebm.networks import GaussianMixtureEnergy as GaussianMixtureEnergy
from pyro_jarzynski.ebm.optimizers import JointOptimizer as JointOptimizer
from pyro_jarzynski.ebm.optimizers import muon_and_adam as muon_and_adam
from pyro_jarzynski.ebm.renewal import Renewal as Renewal
from pyro_jarzynski.ebm.startable import Annealing as Annealing
from pyro_jarzynski.ebm.startable import StartableEnergy as StartableEnergy
from pyro_jarzynski.ebm.svi import JarzynskiOptim as JarzynskiOptim
from pyro_jarzynski.ebm.tracker import Likelihood as Likelihood
from pyro_jarzynski.ebm.tracker import LikelihoodTracker as LikelihoodTracker
from pyro_jarzynski.errors import AuditWarning as AuditWarning
from pyro_jarzynski.errors import CheckpointError as CheckpointError
from pyro_jarzynski.errors import CheckpointWarning as CheckpointWarning
from pyro_jarzynski.errors import CompilationWarning as CompilationWarning
from pyro_jarzynski.errors import EvidenceWarning as EvidenceWarning
from pyro_jarzynski.errors import ExploitationWarning as ExploitationWarning
from pyro_jarzynski.errors import ExportWarning as ExportWarning
from pyro_jarzynski.errors import JarzynskiError as JarzynskiError
from pyro_jarzynski.errors import RankError as RankError
from pyro_jarzynski.infer.annealed_smc import AnnealedSMC as AnnealedSMC
from pyro_jarzynski.infer.evidence_bounds import EvidenceBounds as EvidenceBounds
from pyro_jarzynski.infer.evidence_bounds import evidence_bounds as evidence_bounds
from pyro_jarzynski.infer.mcmc_kernel import JarzynskiKernel as JarzynskiKernel
from pyro_jarzynski.infer.modes import mode_masses as mode_masses
from pyro_jarzynski.infer.posterior import Target as Target
from pyro_jarzynski.infer.result import SMCResult as SMCResult
from pyro_jarzynski.infer.schedules import AdaptiveTempering as AdaptiveTempering
from pyro_jarzynski.infer.schedules import DataTempering as DataTempering
from pyro_jarzynski.infer.self_test import SelfTest as SelfTest
from pyro_jarzynski.infer.self_test import self_test as self_test
from pyro_jarzynski.report.arviz_export import to_arviz as to_arviz
from pyro_jarzynski.report.energy_plots import plot_energy as plot_energy
from pyro_jarzynski.report.evidence_plots import plot_evidence as plot_evidence
from pyro_jarzynski.report.evidence_plots import plot_mode_masses as plot_mode_masses
from pyro_jarzynski.report.evidence_plots import plot_work as plot_work
from pyro_jarzynski.report.html import Table as Table
from pyro_jarzynski.report.html import write_report as write_report
from pyro_jarzynski.report.inference_plots import plot_annealing as plot_annealing
from pyro_jarzynski.report.inference_plots import plot_genealogy as plot_genealogy
from pyro_jarzynski.report.inference_plots import plot_weights as plot_weights
from pyro_jarzynski.report.inference_report import (
    write_inference_report as write_inference_report,
)
from pyro_jarzynski.report.mixture_plot import plot_mixture as plot_mixture
from pyro_jarzynski.report.plots import plot_samples as plot_samples
from pyro_jarzynski.report.plots import plot_training as plot_training
from pyro_jarzynski.report.plots import save_figure as save_figure
from pyro_jarzynski.runtime.checkpoints import Checkpoints as Checkpoints
from pyro_jarzynski.runtime.distributed import distributed as distributed
from pyro_jarzynski.runtime.model_files import SavedModel as SavedModel
from pyro_jarzynski.runtime.model_files import load_model as load_model
from pyro_jarzynski.runtime.model_files import save_model as save_model
from pyro_jarzynski.runtime.progress import ProgressBar as ProgressBar

__version__ = "0.1.0"
