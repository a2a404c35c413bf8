// Attention of new tokens to their own sequences' earlier tokens, over paged keys and values: decoding and
// prefill by chunks alike, in batches of any lengths.
//
// One block computes a tile: some new tokens of one sequence that follow each other, with some of the query
// heads that share one key-value head. Those are its lanes. It goes through the sequence's blocks in order,
// reads each into shared memory once for all lanes, and keeps a running softmax (Milakov and Gimelshein,
// arXiv:1805.02867) for each of them, as compute/paged.rs does. So decoding reads every key and value once for
// each key-value head, and a prefill once for each tile.
//
// A sequence is divided into spans of positions, and what each of them comes to is put together, in order, as that
// softmax allows. Where there are few tiles, a block computes one span of its tile and a second kernel puts them
// together ("flash-decoding", Dao et al. 2023); where there are many, a block does both. The operations and their
// order are the same either way, and spans begin at the same positions whatever runs beside.
//
// A lane looks at the positions that it may see and at nothing else, so its result does not depend on what it
// is computed beside, nor on what lies in places that no token has.

// Positions of a span, from a multiple of this on: 32 blocks.
#define SPAN 512u

// What a block is told by the host, in `tiles`: its first row, how many rows, where its sequence's blocks start in
// `tables`, the first row's position; the span that it computes alone, or NO_SPAN for all; and what it is counted
// among those that compute one.
#define TILE_NUMBERS 6u
#define NO_SPAN 0xFFFFFFFFu
// What a tile is told of which the spans are put together: its first row, how many rows, which part is that of its
// first span, and how many there are.
#define JOIN_NUMBERS 4u

struct Attention {
  const float *q;
  u64 q_stride;
  u64 block;
  u64 layer_start;
  const u32 *tables;
  const u32 *tiles;
  float *parts;
  // Rows that a part has room for.
  u32 part_rows;
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

// What lies before is put together with one span more: how much either fades, and the sum of the shares. A span of
// which a lane sees nothing changes nothing.
struct Fades {
  float before;
  float more;
};

__device__ inline float joined(float before, float more, Fades fades) {
  return __fadd_rn(__fmul_rn(before, fades.before), __fmul_rn(more, fades.more));
}

__device__ inline Fades join(float *top, float *sum, float span_top, float span_sum) {
  if (span_sum == 0.0f) return {1.0f, 0.0f};
  const float next = fmaxf(*top, span_top);
  const Fades fades = {expf(*top - next), expf(span_top - next)};
  *sum = joined(*sum, span_sum, fades);
  *top = next;
  return fades;
}

// Where a part has the numbers of one head of one row: `width` sums of values, the greatest score, the sum of shares.
__device__ inline u64 place_of(const Attention &how, u32 part, u32 row, u32 heads, u32 head) {
  return (((u64)part * how.part_rows + row) * heads + head) * (how.width + 2u);
}

// A block's tile, and what it shares.
struct Tile {
  u32 first_row;
  u32 rows;
  u32 position;
  const u32 *table;
  u32 heads;
  u32 first_head;
  u32 lanes;
  float *keys;
  float *values;
  float *queries;
  // Of the span that is computed: sums of values, shares of one block's tokens, the greatest score, the sum of
  // shares, and how much both fade at a block.
  float *mixed;
  float *shares;
  float *tops;
  float *sums;
  float *fades;
  // Of all spans so far; their sums of values are where results go.
  float *whole_tops;
  float *whole_sums;
  Fades *joins;
};

__device__ inline Tile tile_of(const Attention &how) {
  const u32 *told = how.tiles + blockIdx.x * TILE_NUMBERS;
  const u32 head_in_group = blockIdx.z * how.together;
  const u32 left = how.shared_by - head_in_group;
  Tile tile;
  tile.first_row = told[0];
  tile.rows = told[1];
  tile.table = how.tables + told[2];
  tile.position = told[3];
  tile.heads = left < how.together ? left : how.together;
  tile.first_head = blockIdx.y * how.shared_by + head_in_group;
  tile.lanes = tile.rows * tile.heads;
  tile.keys = (float *)shared_bytes;
  tile.values = tile.keys + BLOCK_TOKENS * how.width;
  tile.queries = tile.values + BLOCK_TOKENS * how.width;
  tile.mixed = tile.queries + tile.lanes * how.width;
  tile.shares = tile.mixed + tile.lanes * how.width;
  tile.tops = tile.shares + tile.lanes * BLOCK_TOKENS;
  tile.sums = tile.tops + tile.lanes;
  tile.fades = tile.sums + tile.lanes;
  tile.whole_tops = tile.fades + tile.lanes;
  tile.whole_sums = tile.whole_tops + tile.lanes;
  tile.joins = (Fades *)(tile.whole_sums + tile.lanes);
  return tile;
}

// Where a lane's number goes in the end.
__device__ inline float *result_of(const Attention &how, const Tile &tile, u32 at) {
  const u32 lane = at / how.width;
  const u64 row = tile.first_row + lane / tile.heads;
  const u64 head = tile.first_head + lane % tile.heads;
  return how.out + row * how.out_stride + head * how.width + at % how.width;
}

// The softmax of one block's scores, behind those before it in the span.
__device__ inline void run_on(const Attention &how, const Tile &tile, u32 start) {
  for (u32 lane = threadIdx.x; lane < tile.lanes; lane += blockDim.x) {
    const u32 own = tile.position + lane / tile.heads;
    const u32 seen = first_seen(own, how.window);
    float *share = tile.shares + lane * BLOCK_TOKENS;
    float top = tile.tops[lane];
    bool any = false;
    for (u32 slot = 0u; slot < BLOCK_TOKENS; ++slot) {
      if (start + slot < seen || start + slot > own) continue;
      top = fmaxf(top, share[slot]);
      any = true;
    }
    if (!any) {
      tile.fades[lane] = 1.0f;
      continue;
    }
    const float fade = expf(tile.tops[lane] - top);
    float sum = tile.sums[lane] * fade;
    for (u32 slot = 0u; slot < BLOCK_TOKENS; ++slot) {
      if (start + slot < seen || start + slot > own) continue;
      share[slot] = expf(share[slot] - top);
      sum += share[slot];
    }
    tile.tops[lane] = top;
    tile.sums[lane] = sum;
    tile.fades[lane] = fade;
  }
}

// One block of keys and values, whose first position is `start`.
template <typename T>
__device__ inline void attend_block(const T *block, const Attention &how, const Tile &tile, u32 start) {
  const u32 width = how.width, part = BLOCK_TOKENS * width;
  // What the round before read is overwritten only when all are done with it; and before the first round,
  // queries are there.
  __syncthreads();
  for (u32 at = threadIdx.x; at < part; at += blockDim.x) {
    tile.keys[at] = widen(block[at]);
    tile.values[at] = widen(block[part + at]);
  }
  __syncthreads();
  for (u32 at = threadIdx.x; at < tile.lanes * BLOCK_TOKENS; at += blockDim.x) {
    const float *query = tile.queries + at / BLOCK_TOKENS * width;
    const u32 slot = at % BLOCK_TOKENS;
    float score = 0.0f;
    for (u32 d = 0u; d < width; ++d) score += query[d] * tile.keys[d * BLOCK_TOKENS + slot];
    tile.shares[at] = score;
  }
  __syncthreads();
  run_on(how, tile, start);
  __syncthreads();
  for (u32 at = threadIdx.x; at < tile.lanes * width; at += blockDim.x) {
    const u32 lane = at / width, d = at % width;
    const u32 own = tile.position + lane / tile.heads;
    const u32 seen = first_seen(own, how.window);
    float sum = tile.mixed[at] * tile.fades[lane];
    for (u32 slot = 0u; slot < BLOCK_TOKENS; ++slot) {
      if (start + slot < seen || start + slot > own) continue;
      sum += tile.shares[lane * BLOCK_TOKENS + slot] * tile.values[slot * width + d];
    }
    tile.mixed[at] = sum;
  }
}

// One span of the tile's sequence, from nothing. Each thread wrote the very numbers that it begins anew here.
template <typename T> __device__ inline void attend_span(const T *kv, const Attention &how, const Tile &tile, u32 span) {
  for (u32 at = threadIdx.x; at < tile.lanes * how.width; at += blockDim.x) tile.mixed[at] = 0.0f;
  for (u32 lane = threadIdx.x; lane < tile.lanes; lane += blockDim.x) {
    tile.tops[lane] = negative_infinity();
    tile.sums[lane] = 0.0f;
  }
  const u32 seen = first_seen(tile.position, how.window);
  u32 start = seen > span * SPAN ? seen / BLOCK_TOKENS * BLOCK_TOKENS : span * SPAN;
  const u32 end = tile.position + tile.rows;
  for (; start < end && start < (span + 1u) * SPAN; start += BLOCK_TOKENS) {
    const u64 head = how.layer_start + blockIdx.y * 2ULL * BLOCK_TOKENS * how.width;
    attend_block<T>(kv + tile.table[start / BLOCK_TOKENS] * how.block + head, how, tile, start);
  }
}

// Leaves what one span came to for the second kernel.
__device__ inline void leave_part(const Attention &how, const Tile &tile, u32 part) {
  const u32 heads = gridDim.y * how.shared_by;
  for (u32 at = threadIdx.x; at < tile.lanes * how.width; at += blockDim.x) {
    const u32 lane = at / how.width;
    const u64 place = place_of(how, part, lane / tile.heads, heads, tile.first_head + lane % tile.heads);
    how.parts[place + at % how.width] = tile.mixed[at];
  }
  for (u32 lane = threadIdx.x; lane < tile.lanes; lane += blockDim.x) {
    const u64 place = place_of(how, part, lane / tile.heads, heads, tile.first_head + lane % tile.heads);
    how.parts[place + how.width] = tile.tops[lane];
    how.parts[place + how.width + 1u] = tile.sums[lane];
  }
}

// Puts a span behind those before it.
__device__ inline void join_span(const Attention &how, const Tile &tile) {
  for (u32 lane = threadIdx.x; lane < tile.lanes; lane += blockDim.x) {
    tile.joins[lane] = join(&tile.whole_tops[lane], &tile.whole_sums[lane], tile.tops[lane], tile.sums[lane]);
  }
  __syncthreads();
  for (u32 at = threadIdx.x; at < tile.lanes * how.width; at += blockDim.x) {
    float *result = result_of(how, tile, at);
    *result = joined(*result, tile.mixed[at], tile.joins[at / how.width]);
  }
}

template <typename T> __device__ inline void attend(const T *kv, const Attention &how) {
  const Tile tile = tile_of(how);
  const u32 *told = how.tiles + blockIdx.x * TILE_NUMBERS;
  const u32 alone = told[4];
  for (u32 at = threadIdx.x; at < tile.lanes * how.width; at += blockDim.x) {
    const u32 lane = at / how.width;
    const u64 row = tile.first_row + lane / tile.heads;
    const u64 head = tile.first_head + lane % tile.heads;
    tile.queries[at] = how.q[row * how.q_stride + head * how.width + at % how.width] * how.scale;
  }
  for (u32 at = threadIdx.x; at < tile.lanes * how.width; at += blockDim.x) {
    if (alone == NO_SPAN) *result_of(how, tile, at) = 0.0f;
  }
  for (u32 lane = threadIdx.x; lane < tile.lanes; lane += blockDim.x) {
    tile.whole_tops[lane] = negative_infinity();
    tile.whole_sums[lane] = 0.0f;
  }
  // One loop for both, so that both are the same instructions.
  u32 span = first_seen(tile.position, how.window) / SPAN, last = (tile.position + tile.rows - 1u) / SPAN;
  if (alone != NO_SPAN) span = last = alone;
  for (; span <= last; ++span) {
    attend_span<T>(kv, how, tile, span);
    if (alone == NO_SPAN) {
      join_span(how, tile);
    } else {
      leave_part(how, tile, told[5]);
    }
  }
  if (alone != NO_SPAN) return;
  // Each thread wrote the very numbers that it reads here; the sums are another's, from before the last barrier.
  for (u32 at = threadIdx.x; at < tile.lanes * how.width; at += blockDim.x) {
    float *result = result_of(how, tile, at);
    *result = *result / tile.whole_sums[at / how.width];
  }
}

#define FOR_STORAGE(NAME, T)                                                                                   \
  extern "C" __global__ void attend_##NAME(const float *q, u64 q_stride, const T *kv, u64 block,               \
                                           u64 layer_start, const u32 *tables, const u32 *tiles, float *parts, \
                                           u32 part_rows, float *out, u64 out_stride, u32 shared_by,           \
                                           u32 together, u32 width, float scale, u32 window) {                 \
    const Attention how = {q,         q_stride, block,      layer_start, tables,   tiles, parts, part_rows,    \
                           out,       out_stride, shared_by, together,   width,    scale, window};             \
    attend<T>(kv, how);                                                                                        \
  }

FOR_STORAGE(f32, float)
FOR_STORAGE(f16, f16)
FOR_STORAGE(bf16, bf16)

#undef FOR_STORAGE

// Puts the spans of tiles together that were computed one by one: a block for each row that such a tile may have.
extern "C" __global__ void attend_join(const u32 *joins, const float *parts, u32 part_rows, float *out, u64 out_stride,
                                       u32 heads, u32 width) {
  const u32 *told = joins + blockIdx.x * JOIN_NUMBERS;
  if (blockIdx.y >= told[1]) return;
  for (u32 at = threadIdx.x; at < heads * width; at += blockDim.x) {
    float top = negative_infinity(), sum = 0.0f, mixed = 0.0f;
    for (u32 part = told[2]; part < told[2] + told[3]; ++part) {
      const float *of = parts + (((u64)part * part_rows + blockIdx.y) * heads + at / width) * (width + 2u);
      const Fades fades = join(&top, &sum, of[width], of[width + 1u]);
      mixed = joined(mixed, of[at % width], fades);
    }
    out[(told[0] + blockIdx.y) * out_stride + at] = mixed / sum;
  }
}
