//! Device memory: pools, zero fill, verify, scrub; CPU and CUDA
