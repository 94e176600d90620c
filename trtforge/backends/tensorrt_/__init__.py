"""Native TensorRT: compiles on the device it compiles for."""
