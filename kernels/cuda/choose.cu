// Choosing the next token where the logits are: the greatest, or one drawn among those that filters leave. It is held
// to choose what compute/choice chooses on the processor, from the same logits, to the token.
//
// A block computes a row by itself, so a row's token does not depend on what is chosen beside it.

// A share of a mass, rounded up.
__device__ inline u64 share_of(float share, double mass) { return (u64)ceil(__dmul_rn((double)share, mass)); }

// What top-k, top-p and min-p leave of a row of weights.
__device__ inline Least filtered(const float *row, u32 vocabulary, const u32 *wish, Choosing *all) {
  const u32 top_k = wish[WISH_TOP_K];
  const float top_p = __uint_as_float(wish[WISH_TOP_P]), min_p = __uint_as_float(wish[WISH_MIN_P]);
  Least least = {__uint_as_float(LEAST_WEIGHT), NONE};
  u64 mass = 0ULL;
  if (top_k > 0u) {
    const Taken goal = {~0ULL, top_k};
    least = head(row, vocabulary, goal, &mass, all);
    if (top_p < 1.0f) {
      const Taken part = {share_of(top_p, (double)mass), top_k};
      least = head(row, vocabulary, part, &mass, all);
    }
  } else if (top_p < 1.0f) {
    const double sum = part_sums(row, vocabulary, least, all);
    // The product with a power of two is exact, so it may come first or last.
    const Taken goal = {share_of(top_p, __dmul_rn(sum, (double)WHOLE)), NONE};
    least = head(row, vocabulary, goal, &mass, all);
  }
  if (min_p > least.weight) least = {min_p, NONE};
  return least;
}

// The token in which the running sum of the weights left, in order of ids, passes the share `at` of their whole.
__device__ inline u32 drawn(const float *row, u32 vocabulary, Least least, double at, Choosing *all) {
  const double goal = __dmul_rn(at, part_sums(row, vocabulary, least, all));
  if (threadIdx.x == 0u) {
    const u32 parts = (vocabulary + PART_TOKENS - 1u) / PART_TOKENS;
    double sum = 0.0;
    all->found = NONE;
    for (u32 part = 0u; part < parts && sum <= goal; ++part) {
      if (all->sums[part] == 0.0) continue;
      all->found = part;
      all->before = sum;
      sum += all->sums[part];
    }
  }
  __syncthreads();
  const u32 first = all->found * PART_TOKENS;
  if (all->found == NONE) return NONE;
  for (u32 slot = threadIdx.x; slot < PART_TOKENS; slot += blockDim.x) {
    all->window[slot] = first + slot < vocabulary ? row[first + slot] : 0.0f;
  }
  __syncthreads();
  if (threadIdx.x != 0u) return NONE;
  u32 last = NONE;
  double sum = 0.0;
  for (u32 slot = 0u; slot < PART_TOKENS && sum <= goal - all->before; ++slot) {
    if (!admits(least, all->window[slot], first + slot)) continue;
    last = first + slot;
    sum += (double)all->window[slot];
  }
  return last;
}

// A block for each wish: `chosen` gets the token, or NONE where nothing is left to choose from. The row of logits
// becomes one of weights on the way. The block is of whole warps.
extern "C" __global__ void __launch_bounds__(1024) choose(float *logits, u32 vocabulary, const u32 *wishes, u32 *chosen) {
  Choosing *all = (Choosing *)shared_bytes;
  const u32 *wish = wishes + blockIdx.x * WISH_NUMBERS;
  float *row = logits + (u64)wish[WISH_ROW] * vocabulary;
  const float inverse = __uint_as_float(wish[WISH_INVERSE]);
  float top;
  u32 id;
  block_best(row, vocabulary, all, &top, &id);
  if (top == negative_infinity()) id = NONE;
  if (id != NONE && inverse > 0.0f) {
    __syncthreads();
    for (u32 at = threadIdx.x; at < vocabulary; at += blockDim.x) row[at] = weight_of(ranked(row[at]), top, inverse);
    __syncthreads();
    const Least least = filtered(row, vocabulary, wish, all);
    const u64 draw = (u64)wish[WISH_AT + 1u] << 32 | wish[WISH_AT];
    id = drawn(row, vocabulary, least, __longlong_as_double((long long)draw), all);
  }
  if (threadIdx.x == 0u) chosen[blockIdx.x] = id;
}
