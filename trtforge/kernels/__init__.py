"""CUDA kernels of ours: compiled ahead of time without a GPU, kept by digest, launched inside TensorRT plugins."""
