// What only a device has, ahead of common.cuh. The emulation has its own.

// The number of the multiprocessor that runs this thread.
__device__ inline unsigned int multiprocessor() {
  unsigned int id;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
  return id;
}
