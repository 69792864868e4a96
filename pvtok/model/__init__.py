"""The PV-VAE model."""

from pvtok.model.posterior import Posterior
from pvtok.model.pvvae import PVVAE
from pvtok.model.stream import State

__all__ = ["PVVAE", "Posterior", "State"]
