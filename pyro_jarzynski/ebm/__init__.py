"""Energy-based models: training with weighted walkers, audited likelihoods."""
