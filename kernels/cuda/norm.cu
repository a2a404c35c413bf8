// Root-mean-square norm, one block for each row (or head of a row), in one pass over memory but for the
// second read, which finds the row in the cache.

// `out = x / sqrt(mean(x²) + epsilon) * weight` for `groups` neighbouring stretches of `width` in each row.
// `out` may be `x`. `stride` and `out_stride` are from row to row, in floats.
extern "C" __global__ void rms_norm(const float *x, const float *weight, float *out, u32 groups, u32 width,
                                    u64 stride, u64 out_stride, float epsilon) {
  float *room = (float *)shared_bytes;
  const u64 row = blockIdx.x / groups;
  const u64 group = blockIdx.x % groups;
  const float *from = x + row * stride + group * width;
  float *to = out + row * out_stride + group * width;
  float squares = 0.0f;
  for (u32 at = threadIdx.x; at < width; at += blockDim.x) squares += from[at] * from[at];
  const float scale = 1.0f / sqrtf(block_sum(squares, room) / (float)width + epsilon);
  for (u32 at = threadIdx.x; at < width; at += blockDim.x) to[at] = from[at] * scale * weight[at];
}
