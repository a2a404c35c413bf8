// Changing single logits before a token is chosen: biases, penalties, tokens that must not come. As
// compute/choice/penalty.rs has it, by the same operations, none of them contracted.

// What the host tells of one row that is to be chosen after: which row; the inverse of the temperature, where 0 is
// greedy; top-k, top-p, min-p; the two halves of where the draw falls; repetition, presence and frequency.
#define WISH_NUMBERS 10u
#define WISH_ROW 0u
#define WISH_INVERSE 1u
#define WISH_TOP_K 2u
#define WISH_TOP_P 3u
#define WISH_MIN_P 4u
#define WISH_AT 5u
#define WISH_REPETITION 7u
#define WISH_PRESENCE 8u
#define WISH_FREQUENCY 9u

// Of one change: whose wish it belongs to, which token, what is added, and how often it was counted.
#define CHANGE_NUMBERS 4u
#define NOT_COUNTED 0xFFFFFFFFu
#define BANNED 0xFFFFFFFEu

// NaN is no candidate, and infinity is the greatest number; as in compute/choice/weights.rs.
__device__ inline float ranked(float logit) {
  if (logit != logit) return negative_infinity();
  return fminf(logit, 3.402823466e38f);
}

__device__ inline float penalised(float logit, u32 count, const u32 *wish) {
  const float repetition = __uint_as_float(wish[WISH_REPETITION]);
  const float repeated = logit > 0.0f ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition);
  const float present = count > 0u ? __uint_as_float(wish[WISH_PRESENCE]) : 0.0f;
  const float often = __fmul_rn(__uint_as_float(wish[WISH_FREQUENCY]), (float)count);
  return fminf(__fsub_rn(__fsub_rn(repeated, often), present), 3.402823466e38f);
}

// A thread for each change; no two are of one logit.
extern "C" __global__ void adjust(float *logits, u32 vocabulary, const u32 *wishes, const u32 *changes, u32 count) {
  const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const u32 *change = changes + at * CHANGE_NUMBERS;
  const u32 *wish = wishes + change[0] * WISH_NUMBERS;
  float *logit = logits + (u64)wish[WISH_ROW] * vocabulary + change[1];
  const float biased = __fadd_rn(ranked(*logit), __uint_as_float(change[2]));
  const u32 counted = change[3];
  if (counted == BANNED) {
    *logit = negative_infinity();
  } else {
    *logit = counted == NOT_COUNTED ? biased : penalised(biased, counted, wish);
  }
}
