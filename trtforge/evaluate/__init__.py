"""How good an engine is: metrics, and parity between an engine and the FP32 model."""
