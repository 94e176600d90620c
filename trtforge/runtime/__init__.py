"""Running engines on whole volumes: the window loop, on the CPU and on the GPU."""
