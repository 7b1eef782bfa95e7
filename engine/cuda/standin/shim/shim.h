// Runs CUDA kernels on a CPU: one fibre per thread of a block, switched at
// barriers and shuffles. The order in which the threads of a block run is a
// choice, so that a missing barrier shows under one order or another.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

namespace shim {
struct Dim { u32 x, y, z; };
inline Dim tIdx, bIdx, bDim, gDim;
enum { MAXT = 1024, STACK = 128 << 10 };
enum State { READY, BLOCK, WARP, DONE };
struct Fiber {
  jmp_buf at;
  ucontext_t start;
  bool started;
  State state;
};
inline Fiber fibers[MAXT];
inline char *stacks;
inline int n, cur, order;
inline jmp_buf sched;
inline std::function<void()> kernel;
inline float *dynamic_shared;
inline u32 lanes[MAXT];
struct Fragment { u32 a[4], b[2]; };
inline Fragment fragments[MAXT];

[[noreturn]] inline void die(const char *m) {
  fprintf(stderr, "shim: %s (block %u,%u,%u thread %d)\n", m, bIdx.x, bIdx.y, bIdx.z, cur);
  abort();
}
inline void yield(State s) {
  fibers[cur].state = s;
  int me = cur;
  if (!_setjmp(fibers[me].at)) _longjmp(sched, 1);
}
inline void body() {
  for (;;) {
    kernel();
    yield(DONE);
  }
}
inline void resume(int i) {
  cur = i;
  tIdx = {i % bDim.x, i / bDim.x % bDim.y, i / (bDim.x * bDim.y)};
  Fiber &f = fibers[i];
  if (_setjmp(sched)) return;
  if (f.started) _longjmp(f.at, 1);
  f.started = true;
  getcontext(&f.start);
  f.start.uc_stack.ss_sp = stacks + (size_t)i * STACK;
  f.start.uc_stack.ss_size = STACK;
  makecontext(&f.start, body, 0);
  setcontext(&f.start);
}
// Orders: 0 ascending, 1 descending, 2 by an odd stride.
inline int nth(int k) { return order == 0 ? k : order == 1 ? n - 1 - k : (int)((k * 37u + 5u) % (u32)n); }

inline void run_block() {
  for (int i = 0; i < n; i++) fibers[i].state = READY;
  for (;;) {
    bool ran = false;
    for (int k = 0; k < n; k++) {
      int i = nth(k);
      if (fibers[i].state == READY) resume(i), ran = true;
    }
    for (int w = 0; w < n; w += 32) {  // whole warps that arrived
      int end = w + 32 < n ? w + 32 : n, c = 0;
      for (int i = w; i < end; i++) c += fibers[i].state == WARP;
      if (c == end - w)
        for (int i = w; i < end; i++) fibers[i].state = READY, ran = true;
    }
    if (ran) continue;
    int done = 0, barrier = 0;
    for (int i = 0; i < n; i++) done += fibers[i].state == DONE, barrier += fibers[i].state == BLOCK;
    if (done == n) return;
    if (barrier != n) die("divergent barrier or shuffle: a deadlock on a GPU");
    for (int i = 0; i < n; i++) fibers[i].state = READY;
  }
}
inline void launch(const std::function<void()> &k, Dim g, Dim b, u32 shared) {
  if (!stacks) stacks = (char *)malloc((size_t)MAXT * STACK);
  n = b.x * b.y * b.z, kernel = k, gDim = g, bDim = b;
  std::vector<float> memory(shared / 4 + 1);
  dynamic_shared = memory.data();
  for (u32 z = 0; z < g.z; z++)
    for (u32 y = 0; y < g.y; y++)
      for (u32 x = 0; x < g.x; x++) {
        bIdx = {x, y, z};
        for (float &f : memory) f = NAN;  // shared memory starts undefined
        run_block();
      }
}
// Call binds the arguments of a launch, copied at once as the driver does.
template <auto fn> struct Call;
template <class... A, void (*fn)(A...)> struct Call<fn> {
  template <size_t... I> static std::function<void()> of(void **p, std::index_sequence<I...>) {
    std::tuple<A...> args(*(A *)p[I]...);
    return [args] { std::apply(fn, args); };
  }
  static std::function<void()> bind(void **p) { return of(p, std::index_sequence_for<A...>{}); }
};
}  // namespace shim

#define threadIdx shim::tIdx
#define blockIdx shim::bIdx
#define blockDim shim::bDim
#define gridDim shim::gDim
#define __shared__ static
#define DEVICE static inline
#define KERNEL static void
#define DYNAMIC_SHARED(name) float *name = shim::dynamic_shared

inline void __syncthreads() { shim::yield(shim::BLOCK); }
inline void __syncwarp() { shim::yield(shim::WARP); }
inline float __uint_as_float(u32 u) { float f; memcpy(&f, &u, 4); return f; }
inline u32 __float_as_uint(float f) { u32 u; memcpy(&u, &f, 4); return u; }
inline u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
inline float __shfl_xor_sync(u32, float v, int m) {
  shim::lanes[shim::cur] = __float_as_uint(v);
  shim::yield(shim::WARP);
  float r = __uint_as_float(shim::lanes[shim::cur ^ m]);
  shim::yield(shim::WARP);
  return r;
}
inline u32 __shfl_xor_sync(u32 all, u32 v, int m) { return __float_as_uint(__shfl_xor_sync(all, __uint_as_float(v), m)); }
// to_tf32 rounds to 10 bits of mantissa, ties away from zero.
inline u32 to_tf32(float v) { return (__float_as_uint(v) + 0x1000u) & ~0x1fffu; }
// mma multiplies the fragments of a warp by the layout of the PTX ISA.
template <bool HALF> inline void mma(float *d, const u32 *a, const u32 *b) {
  shim::Fragment &mine = shim::fragments[shim::cur];
  memcpy(mine.a, a, sizeof mine.a);
  memcpy(mine.b, b, sizeof mine.b);
  shim::yield(shim::WARP);
  int lane = shim::cur % 32;
  const shim::Fragment *warp = shim::fragments + (shim::cur - lane);
  for (int e = 0; e < 4; e++) {
    int row = lane / 4 + e / 2 * 8, col = lane % 4 * 2 + e % 2;
    for (int w = 0; w < 8; w++) {
      u32 x = warp[row % 8 * 4 + w % 4].a[row / 8 + w / 4 * 2], y = warp[col * 4 + w % 4].b[w / 4];
      if (HALF) {
        d[e] += __uint_as_float(x << 16) * __uint_as_float(y << 16);
        d[e] += __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
      } else {
        d[e] += __uint_as_float(x) * __uint_as_float(y);
      }
    }
  }
  shim::yield(shim::WARP);
}
