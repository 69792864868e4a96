"""Training PV-VAE."""
