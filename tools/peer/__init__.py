"""llama.cpp's own server tests, asked of a llama-server and of the proxy before one."""
