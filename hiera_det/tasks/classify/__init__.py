"""Training and using classifiers."""
