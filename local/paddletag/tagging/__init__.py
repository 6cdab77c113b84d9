"""Models at work on sounds: scores, windows, events, results, live tagging, export, ONNX Runtime."""
