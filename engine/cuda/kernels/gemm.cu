// Products y = act(alpha·op(a) op(b) + bias) + c, three ways: float32 with
// every product exact, and on tensor cores from TF32 or bf16 operands with
// float32 sums.

struct Gemm {
  const float *a;
  const void *b;
  const float *c;     // addend, may be y
  float *y, *pre;     // pre receives the value before the activation
  const float *bias;
  float *partial;     // (splits, m, n) sums when splits > 1
  // Scales of a frozen int8 matrix b, by column (y = a W) or by row (dx = dy Wᵀ),
  // the other null: they multiply the result, or a. b itself stays exact.
  const float *by_col, *by_row;
  int lda, ldb, ldc, ldy, ldpre;
  int m, n, k;        // rows codes of op(a) (m, k), op(b) (k, n)
  int m0, mcap;       // with mcap > 0, the rows [m0, m0+mcap) of m; pointers are at row m0
  int ta, tb, act, splits;
  float alpha;
  int unused;
};

DEVICE int gemm_rows(const Head *h, const Gemm &g) {
  int m = count(h, g.m);
  if (g.mcap <= 0) return m;
  m -= g.m0;
  return m < 0 ? 0 : m < g.mcap ? m : g.mcap;
}

DEVICE void gemm_store(const Gemm &g, int i, int j, float v) {
  v *= g.alpha;
  if (g.by_col) v *= g.by_col[j];
  if (g.bias) v += g.bias[j];
  if (g.pre) g.pre[(i64)i * g.ldpre + j] = v;
  v = activate_one(g.act, v);
  if (g.c) v += g.c[(i64)i * g.ldc + j];
  g.y[(i64)i * g.ldy + j] = v;
}

DEVICE void gemm_put(const Gemm &g, int m, int n, int i, int j, float v) {
  if (g.splits > 1) {
    g.partial[((i64)blockIdx.z * m + i) * n + j] = v;
  } else {
    gemm_store(g, i, j, v);
  }
}

// A block's part [lo, hi) of the inner dimension, a multiple of step but for the end.
DEVICE void gemm_part(const Gemm &g, int k, int step, int &lo, int &hi) {
  lo = 0, hi = k;
  if (g.splits > 1) {
    int per = ((k + g.splits - 1) / g.splits + step - 1) / step * step;
    lo = blockIdx.z * per;
    hi = lo + per < k ? lo + per : k;
  }
}

// gemm_reduce adds the parts of a product in their order and finishes it.
KERNEL gemm_reduce(const Head *h, Gemm g) {
  int m = gemm_rows(h, g), n = count(h, g.n);
  i64 all = (i64)m * n;
  for (i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x; e < all; e += (i64)gridDim.x * blockDim.x) {
    float s = 0;
    for (int z = 0; z < g.splits; z++) s += g.partial[z * all + e];
    gemm_store(g, (int)(e / n), (int)(e % n), s);
  }
}

// float32: 64x64 tiles, 256 threads of 4x4.
template <class B> DEVICE void gemm_f32_of(const Head *h, const Gemm &g) {
  __shared__ float as[16][68], bs[16][68];
  const B *b = (const B *)g.b;
  int m = gemm_rows(h, g), n = count(h, g.n), k = count(h, g.k), lo, hi, tid = threadIdx.x;
  int i0 = blockIdx.x * 64, j0 = blockIdx.y * 64, tx = tid % 16, ty = tid / 16;
  if (i0 >= m || j0 >= n) return;
  gemm_part(g, k, 16, lo, hi);
  float acc[4][4] = {};
  for (int k0 = lo; k0 < hi; k0 += 16) {
#pragma unroll
    for (int q = 0; q < 4; q++) {
      int e = tid + q * 256, kk = g.ta ? e / 64 : e % 16, i = g.ta ? e % 64 : e / 16;
      float v = 0;
      if (i0 + i < m && k0 + kk < hi) v = g.a[g.ta ? (i64)(k0 + kk) * g.lda + i0 + i : (i64)(i0 + i) * g.lda + k0 + kk];
      if (sizeof(B) == 1 && g.by_row && k0 + kk < hi) v *= g.by_row[k0 + kk];
      as[kk][i] = v;
      int kb = g.tb ? e % 16 : e / 64, j = g.tb ? e / 16 : e % 64;
      v = 0;
      if (j0 + j < n && k0 + kb < hi) v = load(b, g.tb ? (i64)(j0 + j) * g.ldb + k0 + kb : (i64)(k0 + kb) * g.ldb + j0 + j);
      bs[kb][j] = v;
    }
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < 16; kk++) {
      float x[4], w[4];
#pragma unroll
      for (int q = 0; q < 4; q++) x[q] = as[kk][ty * 4 + q], w[q] = bs[kk][tx * 4 + q];
#pragma unroll
      for (int p = 0; p < 4; p++)
#pragma unroll
        for (int q = 0; q < 4; q++) acc[p][q] += x[p] * w[q];
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < 4; p++)
#pragma unroll
    for (int q = 0; q < 4; q++)
      if (i0 + ty * 4 + p < m && j0 + tx * 4 + q < n) gemm_put(g, m, n, i0 + ty * 4 + p, j0 + tx * 4 + q, acc[p][q]);
}
KERNEL gemm_f32(const Head *h, Gemm g) { gemm_f32_of<float>(h, g); }
KERNEL gemm_f32_bf16(const Head *h, Gemm g) { gemm_f32_of<bf16>(h, g); }
KERNEL gemm_f32_int8(const Head *h, Gemm g) { gemm_f32_of<i8>(h, g); }

// Tensor cores. A fragment register is a word: two bf16 (mma.m16n8k16) or one
// TF32 number (mma.m16n8k8). Either way an instruction takes 8 words along k,
// and lane l = 4·group + t holds words t and t+4 of rows group and group+8 of a
// and of column group of b; it owns columns 2t, 2t+1 of rows group, group+8 of d
// (PTX ISA, "Matrix fragments for mma.m16n8k16" and "... m16n8k8").
#ifdef __CUDACC_RTC__
template <bool HALF> DEVICE void mma(float *d, const u32 *a, const u32 *b) {
  if (HALF) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}
DEVICE u32 to_tf32(float v) {
  u32 r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}
#endif

// word returns operand elements k and k+1 (bf16) or k (TF32) of a row that is
// strided by s, zero from k = end on.
template <bool HALF, class E> DEVICE u32 word(const E *p, i64 s, int k, int end) {
  if (!HALF) return k < end ? to_tf32(load(p, k * s)) : 0u;
  u32 low = k < end ? to_bf16(load(p, k * s)) : 0u, high = k + 1 < end ? to_bf16(load(p, (k + 1) * s)) : 0u;
  return low | high << 16;
}

// scaled_word is word with element k times scale[k].
template <bool HALF> DEVICE u32 scaled_word(const float *p, i64 s, int k, int end, const float *scale) {
  float low = k < end ? p[k * s] * scale[k] : 0.f;
  if (!HALF) return to_tf32(low);
  float high = k + 1 < end ? p[(k + 1) * s] * scale[k + 1] : 0.f;
  return to_bf16(low) | to_bf16(high) << 16;
}

// gemm_tc: BM x BN tiles, 16 words of k at a time, warps of WM x WN. The next
// tile is fetched into registers while the last one is multiplied. Rows of 20
// words keep the lanes of a fragment in different banks.
template <bool HALF, class B, int BM, int BN, int WM, int WN> DEVICE void gemm_tc(const Head *h, const Gemm &g) {
  const int THREADS = BM / WM * (BN / WN) * 32, STEP = HALF ? 32 : 16, QA = BM * 16 / THREADS, QB = BN * 16 / THREADS;
  __shared__ u32 tiles[(BM + BN) * 20];
  u32 *as = tiles, *bs = tiles + BM * 20;
  const B *b = (const B *)g.b;
  int m = gemm_rows(h, g), n = count(h, g.n), k = count(h, g.k), lo, hi, tid = threadIdx.x;
  int i0 = blockIdx.x * BM, j0 = blockIdx.y * BN;
  if (i0 >= m || j0 >= n) return;
  gemm_part(g, k, STEP, lo, hi);
  int lane = tid % 32, warp = tid / 32, wi = warp / (BN / WN) * WM, wj = warp % (BN / WN) * WN, grp = lane / 4, t = lane % 4;
  float acc[WM / 16][WN / 8][4] = {};
  u32 ra[QA], rb[QB];
  auto fetch = [&](int k0) {
#pragma unroll
    for (int q = 0; q < QA; q++) {
      int e = tid + q * THREADS, w = g.ta ? e / BM : e % 16, i = i0 + (g.ta ? e % BM : e / 16), kk = k0 + w * (HALF ? 2 : 1);
      const float *p = g.ta ? g.a + i : g.a + (i64)i * g.lda;
      i64 stride = g.ta ? g.lda : 1;
      if (sizeof(B) == 1 && g.by_row) {
        ra[q] = i < m ? scaled_word<HALF>(p, stride, kk, hi, g.by_row) : 0u;
      } else {
        ra[q] = i < m ? word<HALF>(p, stride, kk, hi) : 0u;
      }
    }
#pragma unroll
    for (int q = 0; q < QB; q++) {
      int e = tid + q * THREADS, w = g.tb ? e % 16 : e / BN, j = j0 + (g.tb ? e / 16 : e % BN), kk = k0 + w * (HALF ? 2 : 1);
      rb[q] = j < n ? word<HALF>(g.tb ? b + (i64)j * g.ldb : b + j, g.tb ? 1 : (i64)g.ldb, kk, hi) : 0u;
    }
  };
  fetch(lo);
  for (int k0 = lo; k0 < hi; k0 += STEP) {
#pragma unroll
    for (int q = 0; q < QA; q++) {
      int e = tid + q * THREADS;
      as[(g.ta ? e % BM : e / 16) * 20 + (g.ta ? e / BM : e % 16)] = ra[q];
    }
#pragma unroll
    for (int q = 0; q < QB; q++) {
      int e = tid + q * THREADS;
      bs[(g.tb ? e / 16 : e % BN) * 20 + (g.tb ? e % 16 : e / BN)] = rb[q];
    }
    __syncthreads();
    if (k0 + STEP < hi) fetch(k0 + STEP);
#pragma unroll
    for (int s = 0; s < 2; s++) {
      u32 fb[WN / 8][2];
#pragma unroll
      for (int q = 0; q < WN / 8; q++) {
        const u32 *p = bs + (wj + q * 8 + grp) * 20 + s * 8 + t;
        fb[q][0] = p[0], fb[q][1] = p[4];
      }
#pragma unroll
      for (int p = 0; p < WM / 16; p++) {
        const u32 *r = as + (wi + p * 16 + grp) * 20 + s * 8 + t;
        u32 fa[4] = {r[0], r[8 * 20], r[4], r[8 * 20 + 4]};
#pragma unroll
        for (int q = 0; q < WN / 8; q++) mma<HALF>(acc[p][q], fa, fb[q]);
      }
    }
    __syncthreads();
  }
  // Through shared memory, a warp's 16 rows at a time: the code that finishes an
  // element is there once, and rows are written whole.
  float *out = (float *)tiles + warp * 16 * WN;
#pragma unroll
  for (int p = 0; p < WM / 16; p++) {
    __syncwarp();
#pragma unroll
    for (int q = 0; q < WN / 8; q++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[(grp + e / 2 * 8) * WN + q * 8 + 2 * t + e % 2] = acc[p][q][e];
    __syncwarp();
#pragma unroll 1
    for (int e = lane; e < 16 * WN; e += 32) {
      int i = i0 + wi + p * 16 + e / WN, j = j0 + wj + e % WN;
      if (i < m && j < n) gemm_put(g, m, n, i, j, out[e]);
    }
  }
}
// 256 threads for 128 x 128, 128 for the narrow products of adapters, 128 x 32.
KERNEL gemm_tf32(const Head *h, Gemm g) { gemm_tc<false, float, 128, 128, 64, 32>(h, g); }
KERNEL gemm_tf32_narrow(const Head *h, Gemm g) { gemm_tc<false, float, 128, 32, 32, 32>(h, g); }
KERNEL gemm_bf16(const Head *h, Gemm g) { gemm_tc<true, bf16, 128, 128, 64, 32>(h, g); }
KERNEL gemm_tf32_bf16(const Head *h, Gemm g) { gemm_tc<false, bf16, 128, 128, 64, 32>(h, g); }
KERNEL gemm_tf32_int8(const Head *h, Gemm g) { gemm_tc<false, i8, 128, 128, 64, 32>(h, g); }
KERNEL gemm_bf16_int8(const Head *h, Gemm g) { gemm_tc<true, i8, 128, 128, 64, 32>(h, g); }
KERNEL gemm_bf16_narrow(const Head *h, Gemm g) { gemm_tc<true, bf16, 128, 32, 32, 32>(h, g); }
