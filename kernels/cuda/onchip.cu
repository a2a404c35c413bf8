// Memory inside a multiprocessor, which no pool holds: shared memory and registers, which the next kernel on
// it finds as the last one left them (CVE-2023-4969 is what comes of that).
//
// A block that takes all of it has a multiprocessor to itself, so as many blocks as there are run on as many
// of them; but nothing promises that. So each says where it was: `seen` has a bit for every multiprocessor,
// and the host launches again until all are set.

__device__ inline void tell_multiprocessor(u32 *seen, u32 seen_words) {
  const u32 id = multiprocessor();
  if (threadIdx.x == 0u && id / 32u < seen_words) atomicOr(&seen[id / 32u], 1u << (id % 32u));
}

// Zeroes `bytes` of shared memory and reads them back: `residue` counts words that are not zero even so.
// `bytes` is a multiple of 4.
extern "C" __global__ void scrub_shared(u32 bytes, u32 *seen, u32 seen_words, u64 *residue) {
  volatile u32 *words = (volatile u32 *)shared_bytes;
  for (u32 word = threadIdx.x; word < bytes / 4u; word += blockDim.x) words[word] = 0u;
  __syncthreads();
  u64 dirty = 0ULL;
  // From the other end, so that no thread reads what it wrote itself.
  for (u32 word = threadIdx.x; word < bytes / 4u; word += blockDim.x) {
    if (words[bytes / 4u - 1u - word]) ++dirty;
  }
  if (dirty) atomicAdd(residue, dirty);
  tell_multiprocessor(seen, seen_words);
}

// Dirties shared memory, so that a test can see that the above cleans it.
extern "C" __global__ void soil_shared(u32 bytes, u32 pattern) {
  volatile u32 *words = (volatile u32 *)shared_bytes;
  for (u32 word = threadIdx.x; word < bytes / 4u; word += blockDim.x) words[word] = pattern;
}

// Counts words of shared memory that hold `pattern`, without writing any.
extern "C" __global__ void find_shared(u32 bytes, u32 pattern, u64 *found) {
  const volatile u32 *words = (const volatile u32 *)shared_bytes;
  u64 count = 0ULL;
  for (u32 word = threadIdx.x; word < bytes / 4u; word += blockDim.x) {
    if (words[word] == pattern) ++count;
  }
  if (count) atomicAdd(found, count);
}

// Registers that one thread of `scrub_registers` holds at a time. With those that it needs for itself that comes
// near the 255 that a thread can have; 256 threads of that are given all of a multiprocessor's 65,536 registers.
#define REGISTERS 244

// Loads zero into that many registers in each thread, makes each of them anew from another `rounds` times, and
// looks at all: `residue` counts threads that found another number. How many rounds there are is not known to
// the compiler, and what it carries from one to the next has to be in registers of its own. `zero` is a word of
// zero in memory, since of a constant there would be none.
extern "C" __global__ void __launch_bounds__(256, 1) scrub_registers(const u32 *zero, u32 rounds, u32 *seen,
                                                                     u32 seen_words, u64 *residue) {
  const volatile u32 *source = (const volatile u32 *)zero;
  u32 held[REGISTERS];
#pragma unroll
  for (u32 index = 0u; index < REGISTERS; ++index) held[index] = *source;
  for (u32 round = 0u; round < rounds; ++round) {
#pragma unroll
    for (u32 index = 0u; index < REGISTERS; ++index) held[index] = held[index] * 3u ^ held[(index + 1u) % REGISTERS];
  }
  u32 found = 0u;
#pragma unroll
  for (u32 index = 0u; index < REGISTERS; ++index) found |= held[index];
  if (found) atomicAdd(residue, 1ULL);
  tell_multiprocessor(seen, seen_words);
}
