"""The onnxruntime backend: the embedded default, which compiles and runs on any CPU."""
