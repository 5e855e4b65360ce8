"""What a GGUF file tells before its weights: metadata, tensors, the shape of the model in it.

Reads local files, and of those on a server no more than the header. Sizes are bytes.
"""
