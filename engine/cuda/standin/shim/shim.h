// Runs CUDA kernels on a CPU: one fibre per thread of a block, switched at
// barriers and shuffles. The order in which the threads of a block run is a
// choice, so that a missing barrier shows under one order or another. A warp
// whose lanes have met goes on before the others, so that the warps of a block
// drift as far apart as its barriers let them.
#pragma once
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

namespace shim {
struct Dim { u32 x, y, z; };
enum { MAXT = 1024, WARPS = MAXT / 32, STACK = 128 << 10 };
// Arguments of a launch, copied at once as the driver does, and the kernel.
struct Args {
  enum { MOST = 16 };
  void (*run)(void **);
  int n;
  alignas(16) char bytes[1024];
  u16 at[MOST];
};

// Contexts. enter makes one on a fresh stack that runs body; swap leaves the
// current one in *from.
void body();
#ifdef __x86_64__
typedef void *Context;
extern "C" __attribute__((visibility("hidden"))) void shim_swap(void **from, void *to);
asm(R"(
  .text
  .weak shim_swap
  .hidden shim_swap
  .type shim_swap, @function
shim_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size shim_swap, .-shim_swap
)");
inline void swap(Context *from, Context to) { shim_swap(from, to); }
inline Context enter(char *stack, size_t n) {
  void **top = (void **)(stack + n) - 8;  // six registers, where to go, and a word, so that body finds the stack as after a call
  top[6] = (void *)body;
  return top;
}
#else
typedef ucontext_t *Context;
inline void swap(Context *from, Context to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, to);
}
inline Context enter(char *stack, size_t n) {
  Context c = (Context)calloc(1, sizeof *c);
  getcontext(c);
  c->uc_stack.ss_sp = stack;
  c->uc_stack.ss_size = n;
  makecontext(c, body, 0);
  return c;
}
#endif

// Threads are numbered as in the block; a place is when a thread's turn is in
// the order. Every thread is ready, waits with its warp or block, or is done.
struct State {
  Dim thread, block, threads, grid;  // the built-in variables
  int n, cur, order, at;             // at: the place of cur
  int blocked, done;
  u64 ready[MAXT / 64];              // by place
  u16 thread_at[MAXT], place_of[MAXT], first[WARPS];
  int arrived[WARPS];
  u32 round[WARPS];                  // how often a warp met
  bool started[MAXT];
  Context context[MAXT], idle[MAXT], launcher;
  int idles, placed, placed_order;
  Args *args;
  void *params[Args::MOST];
  float *dynamic_shared;
  u32 lanes[2][MAXT];
  struct Fragment { u32 a[4], b[2]; } fragments[2][MAXT];
};
inline State s;

[[noreturn]] inline void die(const char *m) {
  fprintf(stderr, "shim: %s (block %u,%u,%u thread %d)\n", m, s.block.x, s.block.y, s.block.z, s.cur);
  abort();
}
inline void wake(int i) { s.ready[s.place_of[i] / 64] |= 1ull << s.place_of[i] % 64; }
// pick makes the next ready thread the current one; false if all are done.
inline bool pick() {
  for (;;) {
    for (int p = s.at + 1; p < s.n; p = (p / 64 + 1) * 64) {
      u64 word = s.ready[p / 64] >> p % 64;
      if (!word) continue;
      s.at = p + __builtin_ctzll(word);
      s.ready[s.at / 64] &= ~(1ull << s.at % 64);
      s.cur = s.thread_at[s.at];
      s.thread.x = s.cur;
      return true;
    }
    if (s.done == s.n) return false;
    if (s.blocked != s.n) die("divergent barrier or shuffle: a deadlock on a GPU");
    s.blocked = 0, s.at = -1;
    for (int i = 0; i < s.n; i++) wake(i);
  }
}
// resume goes on with the picked thread and leaves the current context in *from.
inline void resume(Context *from) {
  if (s.started[s.cur]) return swap(from, s.context[s.cur]);
  s.started[s.cur] = true;
  Context to;
  if (s.idles) {
    to = s.idle[--s.idles];
  } else {
    // Stacks begin at different distances from a page's start: not all in the same lines of the cache.
    static int made;
    char *stack = (char *)malloc(STACK);
    to = enter(stack, STACK - made++ % 61 * 64);
  }
  swap(from, to);
}
// body is what a stack runs: one thread after the other, a new one whenever the last is done.
inline void body() {
  for (;;) {
    s.args->run(s.params);
    s.done++;
    Context *mine = &s.idle[s.idles];
    if (!pick()) {
      s.idles++;
      swap(mine, s.launcher);
    } else if (s.started[s.cur]) {
      s.idles++;
      swap(mine, s.context[s.cur]);
    } else {
      s.started[s.cur] = true;
    }
  }
}
inline void sync_block() {
  int me = s.cur;
  s.blocked++;
  pick();
  if (s.cur != me) resume(&s.context[me]);
}
inline void sync_warp() {
  int me = s.cur, w = me / 32, end = w * 32 + 32 < s.n ? w * 32 + 32 : s.n;
  if (++s.arrived[w] == end - w * 32) {
    s.arrived[w] = 0, s.round[w]++;
    for (int i = w * 32; i < end; i++) wake(i);
    s.at = s.first[w] - 1;
  }
  pick();
  if (s.cur != me) resume(&s.context[me]);
}

// Orders: 0 ascending, 1 descending, 2 by an odd stride.
inline void place() {
  if (s.placed == s.n && s.placed_order == s.order) return;
  s.placed = s.n, s.placed_order = s.order;
  for (u16 &f : s.first) f = MAXT;
  for (int p = 0; p < s.n; p++) {
    int i = s.order == 0 ? p : s.order == 1 ? s.n - 1 - p : (int)((p * 37u + 5u) % (u32)s.n);
    s.thread_at[p] = i, s.place_of[i] = p;
    if (p < s.first[i / 32]) s.first[i / 32] = p;
  }
}
inline void run_block() {
  s.at = -1, s.blocked = s.done = 0;
  memset(s.started, 0, s.n);
  for (int p = 0; p < s.n; p += 64) s.ready[p / 64] = s.n - p < 64 ? (1ull << (s.n - p)) - 1 : ~0ull;
  if (pick()) resume(&s.launcher);
}
// launch runs a kernel with blocks of n threads.
inline void launch(Args &args, Dim grid, int n, u32 shared) {
  s.n = n, s.args = &args, s.grid = grid, s.threads = {(u32)n, 1, 1};
  for (int i = 0; i < args.n; i++) s.params[i] = args.bytes + args.at[i];
  place();
  size_t floats = shared / 4;
  float *memory = s.dynamic_shared = (float *)malloc(shared + 4);
  for (u32 z = 0; z < grid.z; z++)
    for (u32 y = 0; y < grid.y; y++)
      for (u32 x = 0; x < grid.x; x++) {
        s.block = {x, y, z};
        memset(memory, 0xff, 4 * floats);  // shared memory starts undefined: NaN
        run_block();
      }
  free(memory);
}
// Call is how a kernel is called.
template <auto fn> struct Call;
template <class... A, void (*fn)(A...)> struct Call<fn> {
  template <size_t... I> static void with(void **p, std::index_sequence<I...>) { fn(*(A *)p[I]...); }
  static void run(void **p) { with(p, std::index_sequence_for<A...>{}); }
  static void bind(Args &to, void **p) {
    static const size_t sizes[] = {sizeof(A)...};
    size_t at = 0;
    to.run = run, to.n = sizeof...(A);
    for (int i = 0; i < to.n; i++, at = (at + 15) & ~(size_t)15) {
      if (at + sizes[i] > sizeof to.bytes) abort();
      memcpy(to.bytes + (to.at[i] = at), p[i], sizes[i]);
      at += sizes[i];
    }
  }
};
// A Kernel is an entry of a table of them.
struct Kernel {
  const char *name;
  void (*bind)(Args &, void **);
  int number;  // of a changed copy; else 0
  u32 max_shared;
};
}  // namespace shim

#define threadIdx shim::s.thread
#define blockIdx shim::s.block
#define blockDim shim::s.threads
#define gridDim shim::s.grid
#define __shared__ static
#define DEVICE static inline
#define KERNEL static void
#define DYNAMIC_SHARED(name) float *name = shim::s.dynamic_shared

inline void __syncthreads() { shim::sync_block(); }
inline void __syncwarp() { shim::sync_warp(); }
inline float __uint_as_float(u32 u) { float f; memcpy(&f, &u, 4); return f; }
inline u32 __float_as_uint(float f) { u32 u; memcpy(&u, &f, 4); return u; }
inline u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
// What lanes exchange lies on one of two sides by turns: who reads is not overtaken.
inline u32 __shfl_xor_sync(u32, u32 v, int m) {
  int me = shim::s.cur;
  u32 *side = shim::s.lanes[shim::s.round[me / 32] & 1];
  side[me] = v;
  shim::sync_warp();
  return side[me ^ m];
}
inline float __shfl_xor_sync(u32 all, float v, int m) { return __uint_as_float(__shfl_xor_sync(all, __float_as_uint(v), m)); }
// to_tf32 rounds to 10 bits of mantissa, ties away from zero.
inline u32 to_tf32(float v) { return (__float_as_uint(v) + 0x1000u) & ~0x1fffu; }
// mma multiplies the fragments of a warp by the layout of the PTX ISA.
template <bool HALF> inline void mma(float *d, const u32 *a, const u32 *b) {
  int me = shim::s.cur, lane = me % 32;
  shim::State::Fragment *side = shim::s.fragments[shim::s.round[me / 32] & 1];
  memcpy(side[me].a, a, sizeof side[me].a);
  memcpy(side[me].b, b, sizeof side[me].b);
  shim::sync_warp();
  const shim::State::Fragment *warp = side + (me - lane);
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
}
