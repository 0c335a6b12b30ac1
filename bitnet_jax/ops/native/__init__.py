"""C++ kernels for the CPU: their sources, their build, their loading."""
