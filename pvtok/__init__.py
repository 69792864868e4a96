"""pvtok: video to compact predictive latents, and back."""
