"""The core: Hiera and its necks in plain PyTorch. Nothing here imports a detector."""
