"""The same results, sooner: kernels chosen by where they run."""
