// Sums of Kronecker products, all layers in one launch: blockIdx.y is the
// entry of a table in device memory.

struct Kron {
  const float *f1, *f2;
  float *k;          // the sum, or its gradient
  float *d1, *d2;    // gradients of the factors, or null
  int ld1, ld2, ldk, ldd1, ldd2;
  int terms, a1, r1, a2, r2, n, m;
  int add1, add2;
};

// kron_sum: K[i, j] = Σ_t f1[t][i/a2, j/r2]·f2[t][i%a2, j%r2], i < n, j < m.
KERNEL kron_sum(const Kron *table) {
  Kron a = table[blockIdx.y];
  int all = a.n * a.m;
  for (int e = blockIdx.x * blockDim.x + threadIdx.x; e < all; e += gridDim.x * blockDim.x) {
    int i = e / a.m, j = e % a.m;
    const float *p1 = a.f1 + (i / a.a2) * a.r1 + j / a.r2, *p2 = a.f2 + (i % a.a2) * a.r2 + j % a.r2;
    float s = 0;
    for (int t = 0; t < a.terms; t++) s += p1[(i64)t * a.ld1] * p2[(i64)t * a.ld2];
    a.k[(i64)i * a.ldk + j] = s;
  }
}

// kron_sum_grad: d1[t][p, q] = Σ f2[t][u, v]·dK[p·a2+u, q·r2+v] and
// d2[t][u, v] = Σ f1[t][p, q]·dK[p·a2+u, q·r2+v], inside dK: a warp per element.
KERNEL kron_sum_grad(const Kron *table) {
  Kron a = table[blockIdx.y];
  int lane = threadIdx.x & 31, c1 = a.a1 * a.r1, c2 = a.a2 * a.r2, per = c1 + c2;
  for (int e = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); e < a.terms * per; e += gridDim.x * (blockDim.x >> 5)) {
    int t = e / per, x = e % per;
    bool first = x < c1;
    if (!(first ? a.d1 : a.d2)) continue;
    if (!first) x -= c1;
    int row = x / (first ? a.r1 : a.r2), col = x % (first ? a.r1 : a.r2), inner = first ? a.r2 : a.r1;
    float s = 0;
    for (int y = lane; y < (first ? c2 : c1); y += 32) {
      int ir = y / inner, ic = y % inner;
      int i = first ? row * a.a2 + ir : ir * a.a2 + row, j = first ? col * a.r2 + ic : ic * a.r2 + col;
      if (i < a.n && j < a.m) s += (first ? a.f2[(i64)t * a.ld2 + y] : a.f1[(i64)t * a.ld1 + y]) * a.k[(i64)i * a.ldk + j];
    }
    s = warp_sum(s);
    if (lane) continue;
    float *d = first ? a.d1 + (i64)t * a.ldd1 + x : a.d2 + (i64)t * a.ldd2 + x;
    *d = (first ? a.add1 : a.add2) ? *d + s : s;
  }
}
