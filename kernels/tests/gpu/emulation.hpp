// A CUDA device, emulated well enough to run our kernels' own source: what stands ahead of it where a C++
// compiler compiles it.
//
// Every thread of a block is a fiber with a stack of its own, and all run on one thread of the system, each
// until its next barrier: in ascending, descending or some random order. What threads share only across a
// barrier comes out alike in any order, and what lacks a barrier does not. Barriers that only some reach, or
// that they reach at different lines, are errors; so are writes beyond the shared memory that was asked for.
// Shared memory holds garbage when a block starts, or, as on a device, what the last one left.
//
// Not emulated: races between blocks, memory order, the rounding of a device's own math functions, and speed.

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __syncthreads() emulated::block_barrier(__LINE__)
#define __shfl_xor_sync(mask, value, distance) emulated::exchange(mask, value, distance, __LINE__)

struct Place {
  unsigned x, y, z;
};
static Place threadIdx, blockIdx, blockDim, gridDim;

// As much as a block can have on a device of compute capability 9.0.
#define SHARED_MAX 232448u
__attribute__((aligned(16))) unsigned char shared_bytes[SHARED_MAX];

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
}

static inline double __longlong_as_double(long long bits) {
  double value;
  memcpy(&value, &bits, 8);
  return value;
}
// Single operations, to the nearest: nothing is contracted here anyway.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __dmul_rn(double a, double b) { return a * b; }

static inline void atomicAdd(unsigned *at, unsigned value) { *at += value; }
static inline void atomicAdd(unsigned long long *at, unsigned long long value) { *at += value; }
static inline void atomicMin(unsigned long long *at, unsigned long long value) { *at = std::min(*at, value); }
static inline void atomicOr(unsigned *at, unsigned value) { *at |= value; }

namespace emulated {

const size_t STACK_BYTES = 64 << 10;
const unsigned MULTIPROCESSORS = 5;

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

struct Thread {
  State state;
  int line;
  // What it hands to its warp, by turns, so that one barrier an exchange is enough.
  uint64_t handed[2];
  unsigned turn;
  bool started;
  ucontext_t start;
  jmp_buf at;
};

static std::vector<Thread> threads;
static std::vector<unsigned char> stacks;
static unsigned current;
static jmp_buf scheduler;
static void (*kernel)(void **);
static void **arguments;
static std::mt19937_64 random_numbers;
static uint64_t launches;
static unsigned on_multiprocessor;

static void wait(State state, int line) {
  Thread &mine = threads[current];
  mine.state = state;
  mine.line = line;
  if (_setjmp(mine.at) == 0) _longjmp(scheduler, 1);
}

static void block_barrier(int line) { wait(AT_BLOCK_BARRIER, line); }

template <typename T> T exchange(unsigned mask, T value, unsigned distance, int line) {
  Thread &mine = threads[current];
  const unsigned turn = mine.turn++ % 2;
  static_assert(sizeof(T) <= 8, "one word is handed over");
  memcpy(&mine.handed[turn], &value, sizeof(T));
  // A mask of some lanes would need to know which of them come.
  wait(AT_WARP_BARRIER, mask == 0xFFFFFFFFu ? line : -1);
  memcpy(&value, &threads[current ^ distance].handed[turn], sizeof(T));
  return value;
}

static void trampoline() {
  kernel(arguments);
  threads[current].state = ENDED;
  _longjmp(scheduler, 1);
}

static void go_on(unsigned index) {
  current = index;
  threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
  Thread &thread = threads[index];
  if (_setjmp(scheduler) != 0) return;
  if (thread.started) _longjmp(thread.at, 1);
  thread.started = true;
  setcontext(&thread.start);
}

static void prepare(unsigned index) {
  Thread &thread = threads[index];
  thread.state = READY;
  thread.turn = 0;
  thread.started = false;
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = &stacks[index * STACK_BYTES];
  thread.start.uc_stack.ss_size = STACK_BYTES;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, trampoline, 0);
}

// Lets all go on who stand at the barrier from `first` to `last`, if they came to it at one line.
static const char *release(unsigned first, unsigned last, State at) {
  int line = 0;
  for (unsigned index = first; index < last; ++index) {
    if (threads[index].state != at) continue;
    if (threads[index].line < 0) return "a warp's exchange is not of all its lanes";
    if (line != 0 && threads[index].line != line) return "threads wait at barriers of different lines";
    line = threads[index].line;
    threads[index].state = READY;
  }
  return nullptr;
}

static unsigned count(unsigned first, unsigned last, State state) {
  unsigned found = 0;
  for (unsigned index = first; index < last; ++index) found += threads[index].state == state;
  return found;
}

static const char *run_block(unsigned order) {
  const unsigned all = (unsigned)threads.size();
  std::vector<unsigned> turns(all);
  for (unsigned index = 0; index < all; ++index) {
    prepare(index);
    turns[index] = order == 1 ? all - 1 - index : index;
  }
  for (;;) {
    bool moved = false;
    if (order > 1) std::shuffle(turns.begin(), turns.end(), random_numbers);
    for (unsigned index : turns) {
      if (threads[index].state != READY) continue;
      go_on(index);
      moved = true;
    }
    for (unsigned first = 0; first < all; first += 32) {
      const unsigned waiting = count(first, first + 32, AT_WARP_BARRIER);
      if (waiting == 0) continue;
      if (waiting == 32) {
        if (const char *why = release(first, first + 32, AT_WARP_BARRIER)) return why;
        moved = true;
      }
    }
    if (moved) continue;
    const unsigned ended = count(0, all, ENDED);
    if (ended == all) return nullptr;
    if (count(0, all, AT_WARP_BARRIER) > 0) return "some lanes of a warp never come to its exchange";
    if (const char *why = release(0, all, AT_BLOCK_BARRIER)) return why;
  }
}

// Bytes behind a block's shared memory that must be as they were when it ends.
const unsigned EDGE_BYTES = 4096;

static unsigned char garbage(size_t at) { return (unsigned char)(0xFF - at % 2); }

struct Shape {
  unsigned grid[3];
  unsigned block;
  unsigned shared_bytes;
  // 0 is ascending, 1 descending, and everything else the seed of random orders.
  unsigned order;
  unsigned fresh;
};

static const char *run(const Shape &shape, void (*what)(void **), void **with) {
  if (shape.block == 0 || shape.block > 1024 || shape.block % 32 != 0) return "a block is of 1 to 32 whole warps";
  if (shape.shared_bytes > SHARED_MAX) return "a block cannot have so much shared memory";
  if (!shape.grid[0] || !shape.grid[1] || !shape.grid[2]) return "there are no blocks";
  if (shape.grid[1] > 65535 || shape.grid[2] > 65535) return "there are too many blocks";
  kernel = what;
  arguments = with;
  // Not twice the same, so that a device which is asked again answers otherwise.
  random_numbers.seed(shape.order + 1000ULL * launches++);
  threads.resize(shape.block);
  stacks.resize(shape.block * STACK_BYTES);
  gridDim = {shape.grid[0], shape.grid[1], shape.grid[2]};
  blockDim = {shape.block, 1, 1};
  const uint64_t blocks = (uint64_t)shape.grid[0] * shape.grid[1] * shape.grid[2];
  for (uint64_t nth = 0; nth < blocks; ++nth) {
    // Blocks come in any order too: here from the last to the first where threads do.
    const uint64_t block = shape.order == 1 ? blocks - 1 - nth : nth;
    blockIdx = {(unsigned)(block % gridDim.x), (unsigned)(block / gridDim.x % gridDim.y),
                (unsigned)(block / gridDim.x / gridDim.y)};
    on_multiprocessor = (unsigned)(random_numbers() % MULTIPROCESSORS);
    const size_t edge = shape.fresh ? std::min(SHARED_MAX, shape.shared_bytes + EDGE_BYTES) : 0;
    for (size_t at = 0; at < edge; ++at) shared_bytes[at] = garbage(at);
    if (const char *why = run_block(shape.order)) return why;
    for (size_t at = shape.shared_bytes; at < edge; ++at) {
      if (shared_bytes[at] != garbage(at)) return "it wrote beyond its shared memory";
    }
  }
  return nullptr;
}

template <auto F> struct Thunk;
template <typename... A, void (*F)(A...)> struct Thunk<F> {
  template <size_t... I> static void spread(void **with, std::index_sequence<I...>) {
    F(*static_cast<A *>(with[I])...);
  }
  static void call(void **with) { spread(with, std::index_sequence_for<A...>()); }
  static std::vector<unsigned> sizes() { return {sizeof(A)...}; }
};

struct Kernel {
  const char *name;
  void (*call)(void **);
  std::vector<unsigned> sizes;
};

template <auto F> Kernel named(const char *name) { return {name, Thunk<F>::call, Thunk<F>::sizes()}; }

static const char *launch(const std::vector<Kernel> &kernels, const char *name, const Shape &shape, void **with,
                          const unsigned *sizes, unsigned count) {
  for (const Kernel &one : kernels) {
    if (strcmp(one.name, name) != 0) continue;
    if (one.sizes != std::vector<unsigned>(sizes, sizes + count)) return "these are not its arguments";
    return run(shape, one.call, with);
  }
  return "there is no such kernel";
}

} // namespace emulated

static inline unsigned multiprocessor() { return emulated::on_multiprocessor; }
