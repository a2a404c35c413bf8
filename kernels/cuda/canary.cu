// Canaries on the device: the pattern of canary.rs, planted, and looked for.

// The word at `index` of the stream of `seed` (SplitMix64).
__device__ inline u64 canary_word(u64 seed, u64 index) {
  u64 word = seed + (index + 1ULL) * 0x9E3779B97F4A7C15ULL;
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL;
  return word ^ (word >> 31);
}

extern "C" __global__ void canary_fill(unsigned char *bytes, u64 length, u64 seed) {
  const u64 threads = gridDim.x * (u64)blockDim.x;
  const u64 words = (length + 7ULL) / 8ULL;
  for (u64 index = blockIdx.x * (u64)blockDim.x + threadIdx.x; index < words; index += threads) {
    const u64 word = canary_word(seed, index);
    const u64 end = length - index * 8ULL < 8ULL ? length - index * 8ULL : 8ULL;
    for (u64 byte = 0ULL; byte < end; ++byte) bytes[index * 8ULL + byte] = (unsigned char)(word >> (8ULL * byte));
  }
}

// How often any of the canary's first `words` words stands in memory, at any byte, and where first:
// `result[0]` counts, `result[1]` takes the least offset; the host sets them to 0 and to all ones before.
extern "C" __global__ void canary_scan(const unsigned char *bytes, u64 length, u64 seed, u64 words, u64 *result) {
  const u64 threads = gridDim.x * (u64)blockDim.x;
  const u64 places = length < 8ULL ? 0ULL : length - 7ULL;
  for (u64 at = blockIdx.x * (u64)blockDim.x + threadIdx.x; at < places; at += threads) {
    u64 found = 0ULL;
    for (u64 byte = 0ULL; byte < 8ULL; ++byte) {
      found |= (u64)((const volatile unsigned char *)bytes)[at + byte] << (8ULL * byte);
    }
    for (u64 index = 0ULL; index < words; ++index) {
      if (found == canary_word(seed, index)) {
        atomicAdd(&result[0], 1ULL);
        atomicMin(&result[1], at);
      }
    }
  }
}
