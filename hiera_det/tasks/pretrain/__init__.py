"""Pretraining as a masked autoencoder."""
