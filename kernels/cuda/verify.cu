// Reads memory back: how many bytes are not zero, and where is the first?
//
// Words of 16 bytes in a grid-stride loop, since nearly all of them are zero; the bytes of a dirty word are
// looked at one by one. The loads are volatile, so that they come from memory and not from the compiler.
// `result[0]` counts, `result[1]` takes the least offset; the host sets them to 0 and to all ones before.

extern "C" __global__ void verify_zero(const unsigned char *bytes, unsigned long long length,
                                       unsigned long long *result) {
  const unsigned long long thread = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
  const unsigned long long threads = gridDim.x * (unsigned long long)blockDim.x;

  // The part before the first 16-byte boundary, and after the last, goes byte by byte.
  const unsigned long long misaligned = (unsigned long long)bytes & 15ULL;
  unsigned long long head = misaligned ? 16ULL - misaligned : 0ULL;
  if (head > length) head = length;
  const unsigned long long words = (length - head) / 16ULL;
  const unsigned long long tail = head + words * 16ULL;

  unsigned long long count = 0ULL;
  unsigned long long first = ~0ULL;

  for (unsigned long long word = thread; word < words; word += threads) {
    const unsigned long long at = head + word * 16ULL;
    const volatile unsigned long long *pair = (const volatile unsigned long long *)(bytes + at);
    if ((pair[0] | pair[1]) == 0ULL) continue;
    for (unsigned long long byte = at; byte < at + 16ULL; ++byte) {
      if (((const volatile unsigned char *)bytes)[byte]) {
        ++count;
        if (byte < first) first = byte;
      }
    }
  }

  const unsigned long long loose = head + (length - tail);
  for (unsigned long long index = thread; index < loose; index += threads) {
    const unsigned long long byte = index < head ? index : tail + (index - head);
    if (((const volatile unsigned char *)bytes)[byte]) {
      ++count;
      if (byte < first) first = byte;
    }
  }

  if (count) {
    atomicAdd(&result[0], count);
    atomicMin(&result[1], first);
  }
}
