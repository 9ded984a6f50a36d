"""Data sets: read or drawn, brought to unconstrained space, and back to pixels."""

from pyro_jarzynski.data.digits import DIGITS_LEVELS as DIGITS_LEVELS
from pyro_jarzynski.data.digits import ImageData as ImageData
from pyro_jarzynski.data.digits import load_digits as load_digits
from pyro_jarzynski.data.images import LabelledImages as LabelledImages
from pyro_jarzynski.data.images import load_images as load_images
from pyro_jarzynski.data.images import load_mnist as load_mnist
from pyro_jarzynski.data.logit import LogitTransform as LogitTransform
from pyro_jarzynski.data.tables import load_table as load_table
from pyro_jarzynski.data.toys import TOYS as TOYS
from pyro_jarzynski.data.toys import toy as toy
from pyro_jarzynski.data.whitening import SQUEEZE as SQUEEZE
from pyro_jarzynski.data.whitening import DequantisedBatches as DequantisedBatches
from pyro_jarzynski.data.whitening import Whitening as Whitening
