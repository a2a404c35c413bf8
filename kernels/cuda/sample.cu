// Choosing the next token where the logits are: the greatest, the lowest id of equals.

#define NONE 0xFFFFFFFFu

// NaN is no candidate, and infinity is the greatest number; as in the worker's own sampling.
__device__ inline float ranked(float logit) {
  if (logit != logit) return negative_infinity();
  return fminf(logit, 3.402823466e38f);
}

__device__ inline void take_better(float *best, u32 *id, float other, u32 other_id) {
  if (other > *best || (other == *best && other_id < *id)) {
    *best = other;
    *id = other_id;
  }
}

__device__ inline void warp_best(float *best, u32 *id) {
  for (u32 distance = 16u; distance > 0u; distance /= 2u) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, *best, distance);
    const u32 other_id = __shfl_xor_sync(0xFFFFFFFFu, *id, distance);
    take_better(best, id, other, other_id);
  }
}

// A block for each row of logits: `chosen` gets the id of the greatest, or NONE where there is none above minus
// infinity. The block is of whole warps; shared memory holds two numbers for each of them.
extern "C" __global__ void greedy(const float *logits, u32 vocabulary, u32 *chosen) {
  float *bests = (float *)shared_bytes;
  u32 *ids = (u32 *)(bests + 32);
  const float *row = logits + (u64)blockIdx.x * vocabulary;
  float best = negative_infinity();
  u32 id = NONE;
  for (u32 at = threadIdx.x; at < vocabulary; at += blockDim.x) take_better(&best, &id, ranked(row[at]), at);
  warp_best(&best, &id);
  const u32 lane = threadIdx.x % 32u;
  if (lane == 0u) {
    bests[threadIdx.x / 32u] = best;
    ids[threadIdx.x / 32u] = id;
  }
  __syncthreads();
  if (threadIdx.x >= 32u) return;
  const bool is_one = lane < blockDim.x / 32u;
  best = is_one ? bests[lane] : negative_infinity();
  id = is_one ? ids[lane] : NONE;
  warp_best(&best, &id);
  if (lane == 0u) chosen[blockIdx.x] = best > negative_infinity() ? id : NONE;
}
