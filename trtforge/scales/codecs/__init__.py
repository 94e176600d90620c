"""Codecs: a ScaleTable in the forms other programs speak (TensorRT cache, Q/DQ nodes, onnxruntime's JSON)."""
