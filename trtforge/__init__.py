"""trtforge: one recipe from an ONNX model to a checked engine, for each NVIDIA target."""

__version__ = "0.1.0"
