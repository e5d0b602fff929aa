"""Models out of a RUN that other programs load: sentence-transformers, ONNX, safetensors."""
