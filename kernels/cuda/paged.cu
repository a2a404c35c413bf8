// Attention of new tokens to their own sequences' earlier tokens, over paged keys and values: decoding and
// prefill by chunks alike, in batches of any lengths.
//
// One block computes a tile: some new tokens of one sequence that follow each other, with some of the query
// heads that share one key-value head. Those are its lanes. It goes through the sequence's blocks in order,
// reads each into shared memory once for all lanes, and keeps a running softmax (Milakov and Gimelshein,
// arXiv:1805.02867) for each of them, as compute/paged.rs does. So decoding reads every key and value once for
// each key-value head, and a prefill once for each tile.
//
// A lane looks at the positions that it may see and at nothing else, so its result does not depend on what it
// is computed beside, nor on what lies in places that no token has.

// What a tile is told by the host, in `tiles`: its first row, how many rows, where its sequence's blocks
// start in `tables`, and the first row's position.
#define TILE_NUMBERS 4u

struct Attention {
  const float *q;
  u64 q_stride;
  u64 block;
  u64 layer_start;
  const u32 *tables;
  const u32 *tiles;
  float *out;
  u64 out_stride;
  // Query heads that share a key-value head, and how many of those one block takes.
  u32 shared_by;
  u32 together;
  u32 width;
  float scale;
  // So many last positions are seen; 0 means all.
  u32 window;
};

__device__ inline u32 first_seen(u32 position, u32 window) {
  return window == 0u || position < window ? 0u : position + 1u - window;
}

template <typename T> __device__ inline void attend(const T *kv, const Attention &how) {
  const u32 *tile = how.tiles + blockIdx.x * TILE_NUMBERS;
  const u32 first_row = tile[0], rows = tile[1], position = tile[3];
  const u32 *table = how.tables + tile[2];
  const u32 width = how.width;
  const u32 part = BLOCK_TOKENS * width;
  const u32 head_in_group = blockIdx.z * how.together;
  const u32 left = how.shared_by - head_in_group;
  const u32 heads = left < how.together ? left : how.together;
  const u32 first_head = blockIdx.y * how.shared_by + head_in_group;
  const u32 lanes = rows * heads;

  float *keys = (float *)shared_bytes;
  float *values = keys + part;
  float *queries = values + part;
  float *mixed = queries + lanes * width;
  float *shares = mixed + lanes * width;
  float *tops = shares + lanes * BLOCK_TOKENS;
  float *sums = tops + lanes;
  float *fades = sums + lanes;

  for (u32 at = threadIdx.x; at < lanes * width; at += blockDim.x) {
    const u32 lane = at / width;
    const u64 row = first_row + lane / heads;
    const u64 head = first_head + lane % heads;
    queries[at] = how.q[row * how.q_stride + head * width + at % width] * how.scale;
    mixed[at] = 0.0f;
  }
  for (u32 lane = threadIdx.x; lane < lanes; lane += blockDim.x) {
    tops[lane] = negative_infinity();
    sums[lane] = 0.0f;
  }

  const u32 end = position + rows;
  for (u32 nth = first_seen(position, how.window) / BLOCK_TOKENS; nth * BLOCK_TOKENS < end; ++nth) {
    const u32 start = nth * BLOCK_TOKENS;
    const T *block = kv + table[nth] * how.block + how.layer_start + blockIdx.y * 2ULL * part;
    // What the round before read is overwritten only when all are done with it; and before the first round,
    // queries are there.
    __syncthreads();
    for (u32 at = threadIdx.x; at < part; at += blockDim.x) {
      keys[at] = widen(block[at]);
      values[at] = widen(block[part + at]);
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < lanes * BLOCK_TOKENS; at += blockDim.x) {
      const float *query = queries + at / BLOCK_TOKENS * width;
      const u32 slot = at % BLOCK_TOKENS;
      float score = 0.0f;
      for (u32 d = 0u; d < width; ++d) score += query[d] * keys[d * BLOCK_TOKENS + slot];
      shares[at] = score;
    }
    __syncthreads();
    for (u32 lane = threadIdx.x; lane < lanes; lane += blockDim.x) {
      const u32 own = position + lane / heads;
      const u32 seen = first_seen(own, how.window);
      float *share = shares + lane * BLOCK_TOKENS;
      float top = tops[lane];
      bool any = false;
      for (u32 slot = 0u; slot < BLOCK_TOKENS; ++slot) {
        if (start + slot < seen || start + slot > own) continue;
        top = fmaxf(top, share[slot]);
        any = true;
      }
      if (!any) {
        fades[lane] = 1.0f;
        continue;
      }
      const float fade = expf(tops[lane] - top);
      float sum = sums[lane] * fade;
      for (u32 slot = 0u; slot < BLOCK_TOKENS; ++slot) {
        if (start + slot < seen || start + slot > own) continue;
        share[slot] = expf(share[slot] - top);
        sum += share[slot];
      }
      tops[lane] = top;
      sums[lane] = sum;
      fades[lane] = fade;
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < lanes * width; at += blockDim.x) {
      const u32 lane = at / width, d = at % width;
      const u32 own = position + lane / heads;
      const u32 seen = first_seen(own, how.window);
      float sum = mixed[at] * fades[lane];
      for (u32 slot = 0u; slot < BLOCK_TOKENS; ++slot) {
        if (start + slot < seen || start + slot > own) continue;
        sum += shares[lane * BLOCK_TOKENS + slot] * values[slot * width + d];
      }
      mixed[at] = sum;
    }
  }

  // Each thread wrote the very numbers that it reads here; `sums` is another's, from before the last barrier.
  for (u32 at = threadIdx.x; at < lanes * width; at += blockDim.x) {
    const u32 lane = at / width;
    const u64 row = first_row + lane / heads;
    const u64 head = first_head + lane % heads;
    how.out[row * how.out_stride + head * width + at % width] = mixed[at] / sums[lane];
  }
}

#define FOR_STORAGE(NAME, T)                                                                                   \
  extern "C" __global__ void attend_##NAME(const float *q, u64 q_stride, const T *kv, u64 block,               \
                                           u64 layer_start, const u32 *tables, const u32 *tiles, float *out,   \
                                           u64 out_stride, u32 shared_by, u32 together, u32 width, float scale, \
                                           u32 window) {                                                       \
    const Attention how = {q,          q_stride,  block,    layer_start, tables, tiles, out,                   \
                           out_stride, shared_by, together, width,       scale,  window};                      \
    attend<T>(kv, how);                                                                                        \
  }

FOR_STORAGE(f32, float)
FOR_STORAGE(f16, f16)
FOR_STORAGE(bf16, bf16)

#undef FOR_STORAGE
