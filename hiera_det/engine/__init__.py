"""Training of classifiers and autoencoders: plain PyTorch, one process per GPU or CPU; no detector."""
