"""A run's model as an ONNX file: one graph with its preprocessing, checked against the model, and how to call it."""
