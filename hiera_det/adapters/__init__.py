"""The trunk in other frameworks' conventions: a file each, and plain PyTorch. Each imports its framework alone."""
