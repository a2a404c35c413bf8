// A keyed digest of each piece of memory, as digest.rs has it: its 32-bit words are the coefficients of a polynomial
// over the field of 2^61 - 1 numbers, whose value at a secret point is the digest.
//
// A block goes over a piece; each thread takes every 256th word of 64 bits and evaluates a polynomial of its own, whose
// step is the 512th power of the point. `steps` holds, for each thread, the power that its part is multiplied by in
// the end, then that step, then the point itself.

#define FIELD 0x1FFFFFFFFFFFFFFFULL
#define DIGEST_WORDS 8192ULL
#define DIGEST_THREADS 256u

__device__ inline u64 field_add(u64 a, u64 b) {
  const u64 sum = a + b;
  return sum >= FIELD ? sum - FIELD : sum;
}

// 2^61 is 1 in the field, so the upper half of a product is added to the lower.
__device__ inline u64 field_multiply(u64 a, u64 b) {
  const u64 low = a * b;
  return field_add(low & FIELD, (__umul64hi(a, b) << 3) | (low >> 61));
}

__device__ inline u64 field_warp_sum(u64 x) {
  for (u32 distance = 16u; distance > 0u; distance /= 2u) {
    x = field_add(x, __shfl_xor_sync(0xFFFFFFFFu, x, distance));
  }
  return x;
}

// `length` counts words. What a last piece lacks counts as zero. Shared memory holds a number for each warp.
extern "C" __global__ void digest(const u64 *words, u64 length, const u64 *steps, u64 *digests) {
  u64 *room = (u64 *)shared_bytes;
  const u64 step = steps[DIGEST_THREADS];
  const u64 point = steps[DIGEST_THREADS + 1u];
  const u32 lane = threadIdx.x % 32u;
  const u64 pieces = (length + DIGEST_WORDS - 1ULL) / DIGEST_WORDS;
  for (u64 piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    const u64 start = piece * DIGEST_WORDS;
    u64 sum = 0ULL;
    for (u64 at = start + threadIdx.x; at < start + DIGEST_WORDS; at += DIGEST_THREADS) {
      const u64 word = at < length ? ((const volatile u64 *)words)[at] : 0ULL;
      const u64 pair = field_add(field_multiply(word & 0xFFFFFFFFULL, point), word >> 32);
      sum = field_add(field_multiply(sum, step), pair);
    }
    sum = field_warp_sum(field_multiply(sum, steps[threadIdx.x]));
    if (lane == 0u) room[threadIdx.x / 32u] = sum;
    __syncthreads();
    sum = field_warp_sum(lane < DIGEST_THREADS / 32u ? room[lane] : 0ULL);
    // Nobody may still be reading when the next piece's sums come.
    __syncthreads();
    if (threadIdx.x == 0u) digests[piece] = sum;
  }
}
