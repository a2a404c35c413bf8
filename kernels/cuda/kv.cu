// Keys and values into the blocks of a pool, and out of them.
//
// In a block, for every layer and key-value head: the keys of 16 tokens, turned around so that one dimension
// of all 16 lies together; then their values, one token behind the other. So compute/paged.rs has it.
//
// A `place` is a block times 16 plus the token in it. `block` and `layer_start` count numbers: from block to
// block, and from a block's start to this layer's first keys.

template <typename T>
__device__ inline void store(const float *rows, u64 stride, u32 skip, const u32 *places, T *kv, u64 block,
                             u64 layer_start, u32 heads, u32 width) {
  const u32 place = places[blockIdx.x];
  const u32 slot = place % BLOCK_TOKENS;
  const float *keys = rows + blockIdx.x * stride + skip;
  const float *values = keys + heads * width;
  T *start = kv + place / BLOCK_TOKENS * block + layer_start;
  const u32 part = BLOCK_TOKENS * width;
  for (u32 at = threadIdx.x; at < heads * width; at += blockDim.x) {
    const u32 dimension = at % width;
    T *head = start + at / width * 2u * part;
    narrow(keys[at], head + dimension * BLOCK_TOKENS + slot);
    narrow(values[at], head + part + slot * width + dimension);
  }
}

// `keys` and `values` get a row of all heads for each of the positions from `first` on of one sequence, whose
// blocks are in `table`.
template <typename T>
__device__ inline void gather(const T *kv, u64 block, u64 layer_start, const u32 *table, u32 first, float *keys,
                              float *values, u32 heads, u32 width) {
  const u32 position = first + blockIdx.x;
  const u32 slot = position % BLOCK_TOKENS;
  const T *start = kv + table[position / BLOCK_TOKENS] * block + layer_start;
  const u32 part = BLOCK_TOKENS * width;
  const u64 row = (u64)blockIdx.x * heads * width;
  for (u32 at = threadIdx.x; at < heads * width; at += blockDim.x) {
    const u32 dimension = at % width;
    const T *head = start + at / width * 2u * part;
    keys[row + at] = widen(head[dimension * BLOCK_TOKENS + slot]);
    values[row + at] = widen(head[part + slot * width + dimension]);
  }
}

#define FOR_STORAGE(NAME, T)                                                                                   \
  extern "C" __global__ void kv_store_##NAME(const float *rows, u64 stride, u32 skip, const u32 *places, T *kv, \
                                             u64 block, u64 layer_start, u32 heads, u32 width) {               \
    store<T>(rows, stride, skip, places, kv, block, layer_start, heads, width);                                \
  }                                                                                                            \
  extern "C" __global__ void kv_gather_##NAME(const T *kv, u64 block, u64 layer_start, const u32 *table,       \
                                              u32 first, float *keys, float *values, u32 heads, u32 width) {   \
    gather<T>(kv, block, layer_start, table, first, keys, values, heads, width);                               \
  }

FOR_STORAGE(f32, float)
FOR_STORAGE(f16, f16)
FOR_STORAGE(bf16, bf16)

#undef FOR_STORAGE
