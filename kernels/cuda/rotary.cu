// Rotary positions: turns pairs of a head's dimensions, in place.

// The first `heads` heads of each row, a block for each row. `turns` has, for every row, `width` floats: cosine
// and sine of each pair. A pair is two neighbours, or one of the lower half with one of the upper.
extern "C" __global__ void rotate(float *rows, const float *turns, u32 heads, u32 width, u64 stride,
                                  u32 neighbours) {
  const u32 pairs = width / 2u;
  float *row = rows + blockIdx.x * stride;
  const float *by = turns + (u64)blockIdx.x * width;
  for (u32 at = threadIdx.x; at < heads * pairs; at += blockDim.x) {
    const u32 pair = at % pairs;
    float *head = row + (at / pairs) * width;
    float *a = neighbours ? head + 2u * pair : head + pair;
    float *b = neighbours ? a + 1 : a + pairs;
    const float cosine = by[2u * pair], sine = by[2u * pair + 1u];
    const float x = *a, y = *b;
    *a = x * cosine - y * sine;
    *b = x * sine + y * cosine;
  }
}
