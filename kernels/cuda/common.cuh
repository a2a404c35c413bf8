// What every other file here begins with. The two are compiled as one text (NVRTC needs no file and no header
// then), once by a CUDA compiler for a device and once by a C++ compiler for the tests' emulation of one.
//
// Nothing here includes anything. 16-bit numbers are bits that are widened and narrowed by integer arithmetic,
// so that the emulation computes them by the very same lines.

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

// Tokens whose keys and values one block holds; as in compute/paged.rs.
#define BLOCK_TOKENS 16u

// The block's dynamic shared memory.
extern __shared__ __align__(16) unsigned char shared_bytes[];

struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

__device__ inline float negative_infinity() { return __uint_as_float(0xFF800000u); }

__device__ inline float widen(float x) { return x; }

__device__ inline float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ inline float widen(f16 x) {
  const u32 magnitude = ((u32)x.bits & 0x7FFFu) << 13;
  // The two exponents are 112 apart; subnormal numbers become normal on the way. Infinities and NaN keep an
  // exponent of all ones.
  float value = __uint_as_float(magnitude) * 5192296858534827628530496329220096.0f;
  if (magnitude >= 0x0F800000u) value = __uint_as_float(magnitude | 0x7F800000u);
  return __uint_as_float(__float_as_uint(value) | ((u32)(x.bits & 0x8000u) << 16));
}

// To the nearest, and to even where two are as near.
__device__ inline void narrow(float x, float *to) { *to = x; }

__device__ inline void narrow(float x, bf16 *to) {
  const u32 bits = __float_as_uint(x);
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  to->bits = nan ? (u16)((bits >> 16) | 0x40u) : (u16)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

__device__ inline void narrow(float x, f16 *to) {
  const u32 bits = __float_as_uint(x);
  const u32 sign = (bits >> 16) & 0x8000u;
  const u32 magnitude = bits & 0x7FFFFFFFu;
  u32 half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u;
  } else if (magnitude >= 0x477FF000u) {
    half = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  } else {
    // Steps of 2^-24: adding 2^23 leaves them, rounded, in the lowest bits.
    half = __float_as_uint(__uint_as_float(magnitude) * 16777216.0f + 8388608.0f) - 0x4B000000u;
  }
  to->bits = (u16)(sign | half);
}

// Every lane of a full warp gets the sum.
__device__ inline float warp_sum(float x) {
  for (u32 distance = 16u; distance > 0u; distance /= 2u) x += __shfl_xor_sync(0xFFFFFFFFu, x, distance);
  return x;
}

// Every thread of the block gets the sum; `room` is 32 floats of shared memory. The block is of whole warps.
__device__ inline float block_sum(float x, float *room) {
  const u32 lane = threadIdx.x % 32u;
  x = warp_sum(x);
  if (lane == 0u) room[threadIdx.x / 32u] = x;
  __syncthreads();
  x = warp_sum(lane < blockDim.x / 32u ? room[lane] : 0.0f);
  __syncthreads();
  return x;
}
