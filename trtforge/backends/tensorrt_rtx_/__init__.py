"""TensorRT-RTX: NVIDIA's compiler, ahead of time, on a machine with no GPU."""
