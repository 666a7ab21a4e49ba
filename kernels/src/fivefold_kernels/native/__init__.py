"""The CPU kernels as a C++ library: compiled at first use, one build an instruction set."""
