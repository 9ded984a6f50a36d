"""The command line; importing the commands registers them."""

from pyro_jarzynski.cli import images as images
from pyro_jarzynski.cli import infer as infer
from pyro_jarzynski.cli import train as train
from pyro_jarzynski.cli.app import app as app
from pyro_jarzynski.cli.app import main as main
