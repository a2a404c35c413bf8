// A row of logits as weights, the greatest of which is 1, and sums of them: what compute/choice/weights.rs computes on
// the processor, by the same operations in the same order, none of them contracted. And what a block that chooses
// shares.

#define NONE 0xFFFFFFFFu
// Tokens whose weights are added up together, and accumulators of such a sum.
#define PART_TOKENS 256u
#define PART_LANES 16u
// Parts of a row at most, and bins of a histogram.
#define PARTS_MAX 2048u
#define BINS_MAX 2048u
#define GROUP_BINS 32u
// The least weight that can be drawn: the least normal number.
#define LEAST_WEIGHT 0x00800000u
// 2^40: the greatest weight as an integer.
#define WHOLE 1099511627776.0f

// How many tokens, and the sum of their weights as integers.
struct Taken {
  u64 mass;
  u32 tokens;
};

// Down to which token the order of weights is kept; of equals, up to this id.
struct Least {
  float weight;
  u32 id;
};

// What a block shares: sums of parts, or a histogram; and what one thread tells all.
struct Choosing {
  union {
    double sums[PARTS_MAX];
    u64 masses[BINS_MAX];
  };
  u32 counts[BINS_MAX];
  Taken groups[BINS_MAX / GROUP_BINS];
  float bests[32];
  u32 ids[32];
  float window[PART_TOKENS];
  // Told by one thread.
  Taken above;
  double before;
  u32 found;
};

static_assert(sizeof(Choosing) == 26912u, "as much as gpu/choose.rs asks for");

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

// Every thread gets the greatest logit of a row and its id, the lowest of equals.
__device__ inline void block_best(const float *row, u32 vocabulary, Choosing *all, float *best, u32 *id) {
  *best = negative_infinity();
  *id = NONE;
  for (u32 at = threadIdx.x; at < vocabulary; at += blockDim.x) take_better(best, id, ranked(row[at]), at);
  warp_best(best, id);
  const u32 lane = threadIdx.x % 32u;
  if (lane == 0u) {
    all->bests[threadIdx.x / 32u] = *best;
    all->ids[threadIdx.x / 32u] = *id;
  }
  __syncthreads();
  *best = lane < blockDim.x / 32u ? all->bests[lane] : negative_infinity();
  *id = lane < blockDim.x / 32u ? all->ids[lane] : NONE;
  warp_best(best, id);
}

// e^x as compute/simd.rs has it, for x from -87 to 0.
__device__ inline float exp_of(float x) {
  const float round = 12582912.0f;
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504088896340736f), round);
  const float n = __fsub_rn(shifted, round);
  const float r = __fadd_rn(__fsub_rn(x, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, 2.1219444e-4f));
  float p = __fadd_rn(0.00833345f, __fmul_rn(r, 0.00139f));
  p = __fadd_rn(0.0416665f, __fmul_rn(r, p));
  p = __fadd_rn(0.16666666f, __fmul_rn(r, p));
  p = __fadd_rn(0.5f, __fmul_rn(r, p));
  p = __fadd_rn(1.0f, __fmul_rn(r, p));
  p = __fadd_rn(1.0f, __fmul_rn(r, p));
  return __fmul_rn(p, __uint_as_float((__float_as_uint(shifted) + 127u) << 23));
}

__device__ inline float weight_of(float logit, float top, float inverse) {
  const float log = __fmul_rn(__fsub_rn(logit, top), inverse);
  return log > -87.0f ? fminf(exp_of(log), 1.0f) : 0.0f;
}

__device__ inline bool admits(Least least, float weight, u32 id) {
  return weight > least.weight || (weight == least.weight && id <= least.id);
}

// Sixteen lanes add up the weights from `first` to `last` that are no less than `least`. All of a warp come here.
__device__ inline double lanes_sum(const float *row, u32 first, u32 last, float least) {
  double sum = 0.0;
  for (u32 at = first + threadIdx.x % PART_LANES; at < last; at += PART_LANES) {
    if (row[at] >= least) sum += (double)row[at];
  }
  for (u32 half = PART_LANES / 2u; half > 0u; half /= 2u) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, half);
  return sum;
}

// The sum of each part's weights that `least` admits; the sum of those is every thread's. Equals that it admits are
// added up apart from what lies behind them, as on the processor.
__device__ inline double part_sums(const float *row, u32 vocabulary, Least least, Choosing *all) {
  const u32 parts = (vocabulary + PART_TOKENS - 1u) / PART_TOKENS;
  const u32 equals = least.id == NONE ? NONE : least.id + 1u;
  const float above = __uint_as_float(__float_as_uint(least.weight) + 1u);
  // Two parts a warp; the last warps may find one, or none, and take part in the exchange all the same.
  for (u32 pair = threadIdx.x / 32u; pair * 2u < parts; pair += blockDim.x / 32u) {
    const u32 part = pair * 2u + threadIdx.x % 32u / PART_LANES;
    u32 first = part * PART_TOKENS, last = first + PART_TOKENS;
    if (last > vocabulary) last = vocabulary;
    if (first > last) first = last;
    u32 middle = equals > last ? last : equals;
    if (middle < first) middle = first;
    const double with_equals = lanes_sum(row, first, middle, least.weight);
    const double without = lanes_sum(row, middle, last, above);
    if (threadIdx.x % PART_LANES == 0u && part < parts) all->sums[part] = with_equals + without;
  }
  __syncthreads();
  if (threadIdx.x == 0u) {
    double sum = 0.0;
    for (u32 part = 0u; part < parts; ++part) sum += all->sums[part];
    all->before = sum;
  }
  __syncthreads();
  const double sum = all->before;
  __syncthreads();
  return sum;
}
