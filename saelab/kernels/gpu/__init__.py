"""Triton kernels for NVIDIA GPUs: the same functions as in the modules beside this package, imported only where tensors are on a GPU."""
