// The head of the order from the likeliest token down: how far it goes until it has so many tokens, or so great a
// mass, as compute/choice/filters.rs has it. What threads add up in any order is integers.

__device__ inline u64 mass_of(float weight) { return (u64)__fmul_rn(weight, WHOLE); }

__device__ inline Taken taken_and(Taken taken, u64 mass, u32 tokens) {
  taken.mass += mass;
  taken.tokens += tokens;
  return taken;
}

// A head has reached its goal with as many tokens, or as great a mass.
__device__ inline bool reached(Taken taken, Taken goal) {
  return taken.tokens >= goal.tokens || taken.mass >= goal.mass;
}

// Counts the tokens whose weight's bits above `known` are `prefix`, each in the bin of the `wide` bits below those.
__device__ inline void histogram(const float *row, u32 vocabulary, u32 prefix, u32 known, u32 wide, Choosing *all) {
  for (u32 bin = threadIdx.x; bin < BINS_MAX; bin += blockDim.x) {
    all->masses[bin] = 0ULL;
    all->counts[bin] = 0u;
  }
  __syncthreads();
  for (u32 at = threadIdx.x; at < vocabulary; at += blockDim.x) {
    const u32 bits = __float_as_uint(row[at]);
    if (bits < LEAST_WEIGHT || bits >> known != prefix) continue;
    const u32 bin = bits >> (known - wide) & ((1u << wide) - 1u);
    atomicAdd(&all->masses[bin], mass_of(row[at]));
    atomicAdd(&all->counts[bin], 1u);
  }
  __syncthreads();
  for (u32 group = threadIdx.x; group < BINS_MAX / GROUP_BINS; group += blockDim.x) {
    Taken taken = {0ULL, 0u};
    for (u32 bin = group * GROUP_BINS; bin < (group + 1u) * GROUP_BINS; ++bin) {
      taken = taken_and(taken, all->masses[bin], all->counts[bin]);
    }
    all->groups[group] = taken;
  }
  __syncthreads();
}

// One thread goes down the bins to the one in which the goal is reached: that is `found`, or NONE; `above` takes
// what lies above it.
__device__ inline void descend(Taken goal, Choosing *all) {
  Taken above = all->above;
  u32 group = BINS_MAX / GROUP_BINS;
  all->found = NONE;
  while (group > 0u) {
    const Taken whole = taken_and(above, all->groups[group - 1u].mass, all->groups[group - 1u].tokens);
    if (reached(whole, goal)) break;
    above = whole;
    --group;
  }
  for (u32 bin = group * GROUP_BINS; group > 0u && bin > (group - 1u) * GROUP_BINS; --bin) {
    const Taken whole = taken_and(above, all->masses[bin - 1u], all->counts[bin - 1u]);
    if (reached(whole, goal)) {
      all->found = bin - 1u;
      break;
    }
    above = whole;
  }
  all->above = above;
}

// The id of the `nth` token, from 1 on, of this weight, which has as many.
__device__ inline u32 nth_equal(const float *row, u32 vocabulary, float weight, u32 nth, Choosing *all) {
  const u32 parts = (vocabulary + PART_TOKENS - 1u) / PART_TOKENS;
  for (u32 part = threadIdx.x; part < parts; part += blockDim.x) all->counts[part] = 0u;
  __syncthreads();
  for (u32 at = threadIdx.x; at < vocabulary; at += blockDim.x) {
    if (row[at] == weight) atomicAdd(&all->counts[at / PART_TOKENS], 1u);
  }
  __syncthreads();
  if (threadIdx.x == 0u) {
    u32 part = 0u;
    // They are there; the bounds are for a device that is broken.
    while (part + 1u < parts && all->counts[part] < nth) nth -= all->counts[part++];
    u32 at = part * PART_TOKENS;
    while (at + 1u < vocabulary && (row[at] != weight || --nth > 0u)) ++at;
    all->found = at;
  }
  __syncthreads();
  const u32 found = all->found;
  __syncthreads();
  return found;
}

// The least rank of the head that reaches the goal, and in `mass` what the head has. All tokens' where none does.
// From the leading bits of the weights down to the last, 11, 10 and 9 at a time.
__device__ inline Least head(const float *row, u32 vocabulary, Taken goal, u64 *mass, Choosing *all) {
  if (threadIdx.x == 0u) all->above = {0ULL, 0u};
  u32 prefix = 0u, known = 30u;
  for (u32 wide = 11u; wide >= 9u; --wide) {
    histogram(row, vocabulary, prefix, known, wide, all);
    if (threadIdx.x == 0u) descend(goal, all);
    __syncthreads();
    const u32 found = all->found;
    *mass = all->above.mass;
    if (found == NONE) return {__uint_as_float(LEAST_WEIGHT), NONE};
    prefix = prefix << wide | found;
    known -= wide;
  }
  const Taken above = all->above;
  const float weight = __uint_as_float(prefix);
  const u64 each = mass_of(weight);
  u64 equals = goal.tokens - above.tokens;
  if (each > 0ULL) {
    const u64 enough = (goal.mass - above.mass - 1ULL) / each + 1ULL;
    if (enough < equals) equals = enough;
  }
  *mass = above.mass + equals * each;
  return {weight, nth_equal(row, vocabulary, weight, (u32)equals, all)};
}
