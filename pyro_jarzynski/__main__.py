"""The command line as a module: `torchrun … -m pyro_jarzynski train digits`."""

from pyro_jarzynski.cli.app import main

if __name__ == "__main__":
    main()
