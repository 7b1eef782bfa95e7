// Shared by all kernels. The files of this folder are one translation unit, in
// the order of the engine's list; NVRTC compiles it without any header, and the
// tests compile it for the host with a shim in the place of CUDA.
#ifdef __CUDACC_RTC__
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ inline
#define DYNAMIC_SHARED(name) extern __shared__ float name[]
#define INFINITY __int_as_float(0x7f800000)
#endif

struct Tile { int first, len, off, seq; };  // up to 32 tokens of a sequence, from token first+off

// Head is the batch as the kernels see it. Counts are read here and not passed
// as arguments, so that a captured graph serves every batch of its bucket.
struct Head {
  int t, s, r, tiles;
  int train;
  u32 step;
  float loss_scale;
  int unused;
  u64 seed;
  const int *ids, *types, *positions, *cu, *picked, *labels, *seqs;
  const float *targets, *inputs;
  const Tile *tile;
};

// Mat is a row-major matrix; p is null where an operand is absent. rows is a
// number, or -1, -2, -3 for the tokens, sequences, picked rows of the batch.
struct Mat {
  float *p;
  int ld, rows, cols, add;  // add: a parameter's gradient, to which results are added
};

// Storage only: all arithmetic is in float. An i8 is multiplied by its output
// channel's scale.
struct bf16 { u16 x; };
struct i8 { signed char x; };

DEVICE int count(const Head *h, int code) {
  return code >= 0 ? code : code == -1 ? h->t : code == -2 ? h->s : h->r;
}

DEVICE float load(const float *p, i64 i) { return p[i]; }
DEVICE float load(const bf16 *p, i64 i) { return __uint_as_float((u32)p[i].x << 16); }
DEVICE float load(const i8 *p, i64 i) { return (float)p[i].x; }

// to_bf16 rounds to nearest, ties to even; a NaN stays one.
DEVICE u32 to_bf16(float v) {
  u32 u = __float_as_uint(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

DEVICE float at(const Mat &m, int i, int j) { return m.p[(i64)i * m.ld + j]; }
DEVICE float at_or_0(const Mat &m, int i, int j) { return m.p ? m.p[(i64)i * m.ld + j] : 0.f; }
DEVICE void set(const Mat &m, int i, int j, float v) { m.p[(i64)i * m.ld + j] = v; }

// picked is the token that row i of a selection takes (graph.Pick).
DEVICE int picked(const Head *h, int pick, int i) {
  return pick == 0 ? i : pick == 1 ? h->cu[i] : pick == 2 ? h->cu[i + 1] - 1 : h->picked[i];
}

// Elementwise loops: every thread takes elements of an (n, cols) matrix.
#define EACH(h, y, i, j)                                                                            \
  for (i64 e_ = (i64)blockIdx.x * blockDim.x + threadIdx.x, n_ = (i64)count(h, (y).rows) * (y).cols, i = 0, j = 0; \
       e_ < n_ && (split_index(e_, n_, (y).cols, i, j), true); e_ += (i64)gridDim.x * blockDim.x)

DEVICE void split_index(i64 e, i64 n, int cols, i64 &i, i64 &j) {
  if (n >> 32) {
    i = e / cols;
  } else {
    i = (u32)e / (u32)cols;
  }
  j = e - i * cols;
}

// Activations by the numbers of graph.Act.
#define SQRT_HALF 0.70710678118654752f
#define GELU_SCALE 0.79788456080286536f
#define GELU_CUBE 0.044715f

DEVICE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
DEVICE float normal_cdf(float x) { return 0.5f * erfcf(-x * SQRT_HALF); }

DEVICE float activate_one(int a, float x) {
  switch (a) {
    case 1: return x * normal_cdf(x);
    case 2: return 0.5f * x * (1.f + tanhf(GELU_SCALE * (x + GELU_CUBE * x * x * x)));
    case 3: return x > 0.f ? x : 0.f;
    case 4: return x * sigmoid(x);
    case 5: return tanhf(x);
  }
  return x;
}

DEVICE float activate_grad_one(int a, float x) {
  switch (a) {
    case 1: return normal_cdf(x) + x * 0.39894228040143268f * expf(-0.5f * x * x);
    case 2: {
      float t = tanhf(GELU_SCALE * (x + GELU_CUBE * x * x * x));
      return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * GELU_SCALE * (1.f + 3.f * GELU_CUBE * x * x);
    }
    case 3: return x > 0.f ? 1.f : 0.f;
    case 4: {
      float s = sigmoid(x);
      return s + x * s * (1.f - s);
    }
    case 5: {
      float t = tanhf(x);
      return 1.f - t * t;
    }
  }
  return 1.f;
}

// Sums and maxima over a warp; every lane gets the result.
DEVICE float warp_sum(float v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
DEVICE float warp_max(float v) {
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// block_all reduces over a block of up to 1024 threads, whole warps, through
// shared memory sh of 32 floats.
DEVICE float block_all(float v, float *sh, bool largest) {
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = largest ? warp_max(v) : warp_sum(v);
  __syncthreads();
  if (lane == 0) sh[w] = v;
  __syncthreads();
  v = sh[0];
  for (int i = 1; i < warps; i++) v = largest ? fmaxf(v, sh[i]) : v + sh[i];
  return v;
}

// block_sum adds doubles over a block of 256 threads in a fixed order.
DEVICE double block_sum(double v, double *sh) {
  __syncthreads();
  sh[threadIdx.x] = v;
  for (int o = 128; o; o >>= 1) {
    __syncthreads();
    if (threadIdx.x < o) sh[threadIdx.x] += sh[threadIdx.x + o];
  }
  __syncthreads();
  return sh[0];
}

// Philox 4x32-7, as package graph/philox defines the masks: the bits of eight
// elements, 16 each.
struct Words { u32 w[4]; };

DEVICE Words philox(u64 seed, u32 site, u32 step, u64 oct) {
  u32 c0 = (u32)oct, c1 = (u32)(oct >> 32), c2 = site, c3 = step;
  u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
  for (int i = 0; i < 7; i++) {
    u32 h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
    u32 h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// half_of is the bits of element i (of eight), without branches on i.
DEVICE u32 half_of(const Words &w, int i) {
  u32 v = i < 4 ? (i < 2 ? w.w[0] : w.w[1]) : i < 6 ? w.w[2] : w.w[3];
  return i & 1 ? v >> 16 : v & 0xffff;
}

// Drop is a dropout: bits below threshold drop, the rest is scaled by keep.
struct Drop {
  u32 threshold, site;
  float keep;
  int on;
};

DEVICE float mask_of(const Drop &d, u32 bits) { return bits >= d.threshold ? d.keep : 0.f; }

DEVICE float mask_one(const Head *h, const Drop &d, u64 i) {
  return mask_of(d, half_of(philox(h->seed, d.site, h->step, i >> 3), (int)(i & 7)));
}
