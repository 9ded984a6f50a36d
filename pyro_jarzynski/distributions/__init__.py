"""What the distributions of torch and Pyro lack: supports, bijections, exact draws."""
