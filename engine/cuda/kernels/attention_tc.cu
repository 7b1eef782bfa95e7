// Attention on tensor cores: the algorithms of attention.cu with products by
// mma, operands rounded to TF32 or bf16, softmax and sums in float32. A block
// is four warps over 64 rows (queries, or keys in the gradient of keys and
// values), 16 to a warp, and goes over the other side C at a time. What an mma
// leaves in registers is the left operand of the next one.
//
// Tiles are of words (see mma in gemm.cu) along the inner dimension, rows padded
// by 4 words, so that the lanes of a fragment lie in different banks.

#define TC_ROWS 64

// place is where word w of a tile goes whose left operand comes out of an mma.
// Two bf16 of a lane are neighbours there as here. Of TF32, a lane holds columns
// 2t, 2t+1 and multiplies words t, t+4: both sides are permuted alike.
template <bool HALF> DEVICE int place(int w) { return HALF ? w : (w & ~7) | (w & 1) << 2 | (w & 7) >> 1; }

// stage_rows copies n rows of a head as words along the head, and zeros up to ROWS.
template <bool HALF, int HD, int ROWS> DEVICE void stage_rows(u32 *dst, const float *src, i64 row, int ld, int col, int n, int hd) {
  const int W = HALF ? HD / 2 : HD;
  for (int e = threadIdx.x; e < ROWS * W; e += 128) {
    int i = e / W, w = e % W;
    dst[i * (W + 4) + w] = i < n ? word<HALF>(src + (row + i) * ld + col, 1, HALF ? 2 * w : w, hd) : 0u;
  }
}

// stage_cols copies the transpose of C rows of a head: words along the rows.
template <bool HALF, int HD, int C> DEVICE void stage_cols(u32 *dst, const float *src, i64 row, int ld, int col, int n, int hd) {
  const int W = HALF ? C / 2 : C;
  for (int e = threadIdx.x; e < HD * W; e += 128) {
    int d = e % HD, w = e / HD;
    dst[d * (W + 4) + place<HALF>(w)] = d < hd ? word<HALF>(src + row * ld + col + d, ld, HALF ? 2 * w : w, n) : 0u;
  }
}

// rows_product: x = a bᵀ, a 16 and b 8·N rows of W words; the pointers are the lane's.
template <bool HALF, int N, int W> DEVICE void rows_product(float (*x)[4], const u32 *a, const u32 *b) {
  const int S = W + 4;
#pragma unroll
  for (int j = 0; j < N; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) x[j][e] = 0;
#pragma unroll 2
  for (int s = 0; s < W; s += 8) {
    u32 fa[4] = {a[s], a[8 * S + s], a[s + 4], a[8 * S + s + 4]};
#pragma unroll
    for (int j = 0; j < N; j++) {
      u32 fb[2] = {b[8 * j * S + s], b[8 * j * S + s + 4]};
      mma<HALF>(x[j], fa, fb);
    }
  }
}

// weigh: o += x b, x (16, C) as an mma left it, b of M·8 columns staged by
// stage_cols; its pointer is the lane's.
template <bool HALF, int C, int M> DEVICE void weigh(float (*o)[4], float (*x)[4], const u32 *b) {
  const int W = HALF ? C / 2 : C, S = W + 4;
#pragma unroll
  for (int s = 0; s < W / 8; s++) {
    u32 fa[4];
    if (HALF) {
#pragma unroll
      for (int q = 0; q < 4; q++) {
        float *p = &x[2 * s + q / 2][q % 2 * 2];
        fa[q] = to_bf16(p[0]) | to_bf16(p[1]) << 16;
      }
    } else {
#pragma unroll
      for (int q = 0; q < 4; q++) fa[q] = to_tf32(x[s][q % 2 * 2 + q / 2]);
    }
#pragma unroll
    for (int j = 0; j < M; j++) {
      u32 fb[2] = {b[8 * j * S + 8 * s], b[8 * j * S + 8 * s + 4]};
      mma<HALF>(o[j], fa, fb);
    }
  }
}

// Lane is a thread's place in its warp's 16 x 8 tiles: rows grp and grp+8,
// columns 2t and 2t+1.
struct Lane { int warp, grp, t; };
DEVICE Lane lane_of() {
  int lane = threadIdx.x % 32;
  return Lane{(int)threadIdx.x / 32, lane / 4, lane % 4};
}

DEVICE u32 one_of(const Words &w, int i) { return i == 0 ? w.w[0] : i == 1 ? w.w[1] : i == 2 ? w.w[2] : w.w[3]; }

// keep_tiles multiplies two tiles of queries row, row+8 (of this lane) by keys
// key..key+7 and key+8..key+15 by their masks. Four lanes have the columns of
// eight keys, a word each: each draws one row of one tile for all of them.
DEVICE void keep_tiles(const Head *h, const Attn &a, float (*x)[4], int row, int head, int key, int t) {
  Words w = philox(h->seed, a.drop.site, h->step, element(a, row + (t & 1) * 8, head, key + (t & 2) * 4) >> 3);
  u32 got[4];
#pragma unroll
  for (int s = 0; s < 4; s++) {
    u32 v = one_of(w, t ^ s);  // what the lane that is s away needs of these eight
    got[s] = s ? __shfl_xor_sync(0xffffffffu, v, s) : v;
  }
#pragma unroll
  for (int o = 0; o < 4; o++) {
    int s = o ^ t;  // the lane that drew the eight o
    u32 v = s == 0 ? got[0] : s == 1 ? got[1] : s == 2 ? got[2] : got[3];
    x[o / 2][o % 2 * 2] *= mask_of(a.drop, v & 0xffff);
    x[o / 2][o % 2 * 2 + 1] *= mask_of(a.drop, v >> 16);
  }
}

// masks_across sets m[e] to the masks of keys key (e = 0, 1) and key+8 (2, 3)
// and queries row and row+1 of this lane. Eight lanes have the keys of eight:
// each draws one of the four eights for itself and three others.
DEVICE void masks_across(const Head *h, const Attn &a, float *m, int row, int head, int key, int grp) {
  int r = grp & 3;
  Words w = philox(h->seed, a.drop.site, h->step, element(a, row + (r & 1), head, key - grp + (r & 2) * 4) >> 3);
  u32 got[4];
#pragma unroll
  for (int s = 0; s < 4; s++) {
    u32 v = half_of(w, grp ^ s);  // what the lane that is s away needs of these eight
    got[s] = s ? __shfl_xor_sync(0xffffffffu, v, s << 2) : v;
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    int s = e ^ r;  // the lane that drew eight e
    m[e] = mask_of(a.drop, s == 0 ? got[0] : s == 1 ? got[1] : s == 2 ? got[2] : got[3]);
  }
}

// put_tile writes rows row and row+8 of columns col+8j+2t.. of an output.
template <int M> DEVICE void put_tile(float *y, int ld, i64 row, int col, float (*o)[4], int rows, int grp, int t, int hd, const float *scale) {
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (grp + e / 2 * 8 >= rows) continue;
    float *p = y + (row + grp + e / 2 * 8) * ld + col;
#pragma unroll
    for (int j = 0; j < M; j++) {
      int d = 8 * j + 2 * t + e % 2;
      if (d < hd) p[d] = o[j][e] * scale[e / 2];
    }
  }
}

template <bool HALF, int HD, int C> DEVICE void attention_tc_of(const Head *h, const Attn &a) {
  DYNAMIC_SHARED(sm);
  const int W = HALF ? HD / 2 : HD, V = HALF ? C / 2 : C;
  Span s;
  if (!query_span(h, a, blockIdx.x, TC_ROWS, s)) return;
  int hd = a.hd, head = blockIdx.y, kc = head / (a.heads / a.kv_heads) * hd, qc = head * hd;
  u32 *q = (u32 *)sm, *k = q + TC_ROWS * (W + 4), *v = k + C * (W + 4);
  Lane l = lane_of();
  int r0 = l.warp * 16, rows = s.n - r0, row = s.row + r0 + l.grp, lo[2], hi[2];
#pragma unroll
  for (int e = 0; e < 2; e++) {
    int r = r0 + l.grp + 8 * e;
    lo[e] = first_key(a, s.pos + r), hi[e] = r < s.n ? last_key(a, s.pos + r, s.len) : lo[e];
  }
  // What the block and what this warp sees.
  int begin = first_key(a, s.pos), end = last_key(a, s.pos + s.n - 1, s.len), last = rows < 16 ? rows : 16;
  int from = first_key(a, s.pos + r0), to = rows > 0 ? last_key(a, s.pos + r0 + last - 1, s.len) : from;
  bool drop = a.drop.on && h->train;
  stage_rows<HALF, HD, TC_ROWS>(q, a.q, s.row, a.ldq, qc, s.n, hd);
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {}, o[HD / 8][4] = {};
  for (int k0 = begin / C * C; k0 < end; k0 += C) {
    int nk = s.len - k0 < C ? s.len - k0 : C;
    __syncthreads();
    stage_rows<HALF, HD, C>(k, a.k, s.first + k0, a.ldk, kc, nk, hd);
    stage_cols<HALF, HD, C>(v, a.v, s.first + k0, a.ldv, kc, nk, hd);
    __syncthreads();
    if (k0 >= to || k0 + C <= from) continue;  // nothing for this warp
    float x[C / 8][4], top[2] = {most[0], most[1]}, part[2] = {};
    rows_product<HALF, C / 8, W>(x, q + (r0 + l.grp) * (W + 4) + l.t, k + l.grp * (W + 4) + l.t);
#pragma unroll
    for (int j = 0; j < C / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int key = k0 + 8 * j + 2 * l.t + e % 2;
        x[j][e] = key >= lo[e / 2] && key < hi[e / 2] ? x[j][e] * a.scale : -INFINITY;
        top[e / 2] = fmaxf(top[e / 2], x[j][e]);
      }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      top[e] = quad_max(top[e]);
      float shrink = most[e] == top[e] ? 1.f : expf(most[e] - top[e]);
      most[e] = top[e];
      sum[e] *= shrink;
#pragma unroll
      for (int j = 0; j < HD / 8; j++) o[j][2 * e] *= shrink, o[j][2 * e + 1] *= shrink;
    }
#pragma unroll
    for (int j = 0; j < C / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        x[j][e] = x[j][e] == -INFINITY ? 0.f : expf(x[j][e] - most[e / 2]);
        part[e / 2] += x[j][e];
      }
#pragma unroll
    for (int e = 0; e < 2; e++) sum[e] += quad_sum(part[e]);
    if (drop) {
#pragma unroll
      for (int j = 0; j < C / 8; j += 2) keep_tiles(h, a, x + j, row, head, k0 + 8 * j, l.t);
    }
    weigh<HALF, C, HD / 8>(o, x, v + l.grp * (V + 4) + l.t);
  }
  float inv[2] = {1.f / sum[0], 1.f / sum[1]};
  put_tile<HD / 8>(a.out, a.ldout, s.row + r0, qc, o, rows, l.grp, l.t, hd, inv);
  if (!a.lse || l.t) return;
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (l.grp + 8 * e < rows) a.lse[(i64)(row + 8 * e) * a.ldlse + head] = most[e] + logf(sum[e]);
}

// The gradient of queries; see attention_dq.
template <bool HALF, int HD, int C> DEVICE void attention_dq_tc_of(const Head *h, const Attn &a) {
  DYNAMIC_SHARED(sm);
  const int W = HALF ? HD / 2 : HD, V = HALF ? C / 2 : C;
  Span s;
  if (!query_span(h, a, blockIdx.x, TC_ROWS, s)) return;
  int hd = a.hd, head = blockIdx.y, kc = head / (a.heads / a.kv_heads) * hd, qc = head * hd;
  u32 *q = (u32 *)sm, *dy = q + TC_ROWS * (W + 4), *k = dy + TC_ROWS * (W + 4), *v = k + C * (W + 4), *kt = v + C * (W + 4);
  Lane l = lane_of();
  int r0 = l.warp * 16, rows = s.n - r0, row = s.row + r0 + l.grp, lo[2], hi[2];
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int e = 0; e < 2; e++) {
    int r = r0 + l.grp + 8 * e;
    lo[e] = first_key(a, s.pos + r), hi[e] = lo[e];
    if (r >= s.n) continue;
    hi[e] = last_key(a, s.pos + r, s.len);
    if (hi[e] - lo[e] == 1) hi[e] = lo[e];  // its probability is 1 whatever the score: exactly no gradient
    lse[e] = a.lse[(i64)(row + 8 * e) * a.ldlse + head], delta[e] = a.delta[(i64)(row + 8 * e) * a.heads + head];
  }
  int begin = first_key(a, s.pos), end = last_key(a, s.pos + s.n - 1, s.len), last = rows < 16 ? rows : 16;
  int from = first_key(a, s.pos + r0), to = rows > 0 ? last_key(a, s.pos + r0 + last - 1, s.len) : from;
  bool drop = a.drop.on && h->train;
  stage_rows<HALF, HD, TC_ROWS>(q, a.q, s.row, a.ldq, qc, s.n, hd);
  stage_rows<HALF, HD, TC_ROWS>(dy, a.dy, s.row, a.lddy, qc, s.n, hd);
  float o[HD / 8][4] = {};
  for (int k0 = begin / C * C; k0 < end; k0 += C) {
    int nk = s.len - k0 < C ? s.len - k0 : C;
    __syncthreads();
    stage_rows<HALF, HD, C>(k, a.k, s.first + k0, a.ldk, kc, nk, hd);
    stage_rows<HALF, HD, C>(v, a.v, s.first + k0, a.ldv, kc, nk, hd);
    stage_cols<HALF, HD, C>(kt, a.k, s.first + k0, a.ldk, kc, nk, hd);
    __syncthreads();
    if (k0 >= to || k0 + C <= from) continue;
    float x[C / 8][4], g[C / 8][4];
    int mine = (r0 + l.grp) * (W + 4) + l.t, theirs = l.grp * (W + 4) + l.t;
    rows_product<HALF, C / 8, W>(x, q + mine, k + theirs);
    rows_product<HALF, C / 8, W>(g, dy + mine, v + theirs);
    if (drop) {
#pragma unroll
      for (int j = 0; j < C / 8; j += 2) keep_tiles(h, a, g + j, row, head, k0 + 8 * j, l.t);
    }
#pragma unroll
    for (int j = 0; j < C / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int key = k0 + 8 * j + 2 * l.t + e % 2;
        x[j][e] = key >= lo[e / 2] && key < hi[e / 2] ? expf(x[j][e] * a.scale - lse[e / 2]) * (g[j][e] - delta[e / 2]) * a.scale : 0.f;
      }
    weigh<HALF, C, HD / 8>(o, x, kt + l.grp * (V + 4) + l.t);
  }
  const float one[2] = {1.f, 1.f};
  put_tile<HD / 8>(a.dq, a.lddq, s.row + r0, qc, o, rows, l.grp, l.t, hd, one);
}

// The gradients of 64 keys and values, see attention_dkv: of both, or with
// PART 1 of keys, with 2 of values, where both do not fit into registers.
template <bool HALF, int HD, int C, int PART> DEVICE void attention_dkv_tc_of(const Head *h, const Attn &a) {
  DYNAMIC_SHARED(sm);
  const int W = HALF ? HD / 2 : HD, V = HALF ? C / 2 : C;
  if (blockIdx.x >= h->tiles) return;
  Tile tile = h->tile[blockIdx.x];
  if (tile.off % TC_ROWS) return;
  int hd = a.hd, kv = blockIdx.y, kc = kv * hd, group = a.heads / a.kv_heads;
  u32 *k = (u32 *)sm, *v = k + TC_ROWS * (W + 4), *q = v + TC_ROWS * (W + 4), *dy = q + C * (W + 4), *qt = dy + C * (W + 4), *dyt = qt + HD * (V + 4);
  float *lse = (float *)(dyt + HD * (V + 4)), *delta = lse + C;
  Lane l = lane_of();
  int nk = tile.len - tile.off < TC_ROWS ? tile.len - tile.off : TC_ROWS, r0 = l.warp * 16, rows = nk - r0, key = tile.off + r0 + l.grp;
  stage_rows<HALF, HD, TC_ROWS>(k, a.k, tile.first + tile.off, a.ldk, kc, nk, hd);
  stage_rows<HALF, HD, TC_ROWS>(v, a.v, tile.first + tile.off, a.ldv, kc, nk, hd);
  float ok[PART == 2 ? 1 : HD / 8][4] = {}, ov[PART == 1 ? 1 : HD / 8][4] = {};
  bool drop = a.drop.on && h->train;
  // Queries by position: all of them, or the one that is picked.
  int from = a.pick == 2 ? tile.len - 1 : 0, to = a.pick == 1 ? 1 : tile.len;
  if (a.causal && tile.off > from) from = tile.off;
  if (a.window > 0 && tile.off + nk + a.window - 1 < to) to = tile.off + nk + a.window - 1;
  for (int head = kv * group; head < (kv + 1) * group; head++) {
    for (int p0 = from; p0 < to; p0 += C) {
      int nq = to - p0 < C ? to - p0 : C, row0 = a.pick == 0 ? tile.first + p0 : tile.seq;
      __syncthreads();
      stage_rows<HALF, HD, C>(q, a.q, row0, a.ldq, head * hd, nq, hd);
      stage_rows<HALF, HD, C>(dy, a.dy, row0, a.lddy, head * hd, nq, hd);
      if (PART != 2) stage_cols<HALF, HD, C>(qt, a.q, row0, a.ldq, head * hd, nq, hd);
      if (PART != 1) stage_cols<HALF, HD, C>(dyt, a.dy, row0, a.lddy, head * hd, nq, hd);
      for (int i = threadIdx.x; i < C; i += 128) {
        lse[i] = i < nq ? a.lse[(i64)(row0 + i) * a.ldlse + head] : 0.f;
        delta[i] = i < nq ? a.delta[(i64)(row0 + i) * a.heads + head] : 0.f;
      }
      __syncthreads();
      if (rows <= 0 || (a.causal && p0 + nq <= tile.off + r0)) continue;  // nothing for this warp
      float x[C / 8][4], g[C / 8][4];
      int mine = (r0 + l.grp) * (W + 4) + l.t, theirs = l.grp * (W + 4) + l.t;
      rows_product<HALF, C / 8, W>(x, k + mine, q + theirs);
      if (PART != 2) rows_product<HALF, C / 8, W>(g, v + mine, dy + theirs);
#pragma unroll
      for (int j = 0; j < C / 8; j++) {
        float m[4] = {1.f, 1.f, 1.f, 1.f};
        if (drop) masks_across(h, a, m, row0 + 8 * j + 2 * l.t, head, key, l.grp);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int i = 8 * j + 2 * l.t + e % 2, pos = p0 + i, at = key + e / 2 * 8, lo = first_key(a, pos), hi = last_key(a, pos, tile.len);
          bool sees = i < nq && at < tile.off + nk && at >= lo && at < hi;
          float p = sees ? expf(x[j][e] * a.scale - lse[i]) : 0.f;
          x[j][e] = m[e] * p;
          if (PART != 2) g[j][e] = hi - lo > 1 ? p * (m[e] * g[j][e] - delta[i]) * a.scale : 0.f;
        }
      }
      int cols = l.grp * (V + 4) + l.t;
      if (PART != 2) weigh<HALF, C, HD / 8>(ok, g, qt + cols);
      if (PART != 1) weigh<HALF, C, HD / 8>(ov, x, dyt + cols);
    }
  }
  const float one[2] = {1.f, 1.f};
  i64 row = tile.first + tile.off + r0;
  if (PART != 2 && a.dk) put_tile<HD / 8>(a.dk, a.lddk, row, kc, ok, rows, l.grp, l.t, hd, one);
  if (PART != 1 && a.dv) put_tile<HD / 8>(a.dv, a.lddv, row, kc, ov, rows, l.grp, l.t, hd, one);
}

KERNEL attention_tf32_32(const Head *h, Attn a) { attention_tc_of<false, 32, 64>(h, a); }
KERNEL attention_tf32_64(const Head *h, Attn a) { attention_tc_of<false, 64, 64>(h, a); }
KERNEL attention_tf32_128(const Head *h, Attn a) { attention_tc_of<false, 128, 32>(h, a); }
KERNEL attention_bf16_32(const Head *h, Attn a) { attention_tc_of<true, 32, 64>(h, a); }
KERNEL attention_bf16_64(const Head *h, Attn a) { attention_tc_of<true, 64, 64>(h, a); }
KERNEL attention_bf16_128(const Head *h, Attn a) { attention_tc_of<true, 128, 32>(h, a); }
KERNEL attention_bf16_256(const Head *h, Attn a) { attention_tc_of<true, 256, 32>(h, a); }
KERNEL attention_dq_tf32_32(const Head *h, Attn a) { attention_dq_tc_of<false, 32, 32>(h, a); }
KERNEL attention_dq_tf32_64(const Head *h, Attn a) { attention_dq_tc_of<false, 64, 32>(h, a); }
KERNEL attention_dq_tf32_128(const Head *h, Attn a) { attention_dq_tc_of<false, 128, 32>(h, a); }
KERNEL attention_dq_bf16_32(const Head *h, Attn a) { attention_dq_tc_of<true, 32, 32>(h, a); }
KERNEL attention_dq_bf16_64(const Head *h, Attn a) { attention_dq_tc_of<true, 64, 32>(h, a); }
KERNEL attention_dq_bf16_128(const Head *h, Attn a) { attention_dq_tc_of<true, 128, 32>(h, a); }
KERNEL attention_dq_bf16_256(const Head *h, Attn a) { attention_dq_tc_of<true, 256, 32>(h, a); }
KERNEL attention_dkv_tf32_32(const Head *h, Attn a) { attention_dkv_tc_of<false, 32, 32, 0>(h, a); }
KERNEL attention_dkv_tf32_64(const Head *h, Attn a) { attention_dkv_tc_of<false, 64, 32, 0>(h, a); }
KERNEL attention_dkv_tf32_128(const Head *h, Attn a) { attention_dkv_tc_of<false, 128, 32, 0>(h, a); }
KERNEL attention_dkv_bf16_32(const Head *h, Attn a) { attention_dkv_tc_of<true, 32, 32, 0>(h, a); }
KERNEL attention_dkv_bf16_64(const Head *h, Attn a) { attention_dkv_tc_of<true, 64, 32, 0>(h, a); }
KERNEL attention_dkv_bf16_128(const Head *h, Attn a) { attention_dkv_tc_of<true, 128, 32, 0>(h, a); }
KERNEL attention_dk_bf16_256(const Head *h, Attn a) { attention_dkv_tc_of<true, 256, 32, 1>(h, a); }
KERNEL attention_dv_bf16_256(const Head *h, Attn a) { attention_dkv_tc_of<true, 256, 32, 2>(h, a); }
